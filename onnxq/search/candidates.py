"""Candidates: forms of the model, calibration methods and techniques, compared on validation samples.

Every candidate runs in the runtime's integer kernels, like the written file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnxq.calibration.collect import Divided
from onnxq.calibration.methods import MethodOptions
from onnxq.calibration.moments import LayerInput, Moments
from onnxq.calibration.statistics import Statistics
from onnxq.formats.recipe import Recipe
from onnxq.formats.writer import Writer
from onnxq.options import Method
from onnxq.plan.plan import Plan
from onnxq.quantization.parameters import Parameters, Ranges, activation_parameters, make_parameters
from onnxq.quantization.weights import QuantizedWeight, WeightOptions, layer_inputs, quantize_weights
from onnxq.runtime.parallel import IN_PROCESS, Executor, one_ahead
from onnxq.runtime.status import activity
from onnxq.search.references import OutputNoise, References
from onnxq.search.settings import SearchSettings
from onnxq.search.trial import Choice, Trial
from onnxq.transforms.registry import with_techniques
from onnxq.types import QuantParams


@dataclass(frozen=True, eq=False)
class Variant:
    """A form of the normalized model.

    recipe   recipe with the form's model and plan, and the techniques that made the form
    moments  moments of the layers' inputs
    divided  tensors that are tensors of the plain form, divided by channel
    """

    recipe: Recipe
    moments: Mapping[LayerInput, Moments] = field(default_factory=dict)
    divided: Mapping[str, Divided] = field(default_factory=dict)

    @property
    def model(self) -> ir.Model:
        """The form's float model."""
        return self.recipe.model

    @property
    def plan(self) -> Plan:
        """The form's plan with everything quantized that the recipe allows."""
        return self.recipe.plan


@dataclass
class Cache:
    """Results that candidates of one form need again: ranges, weights by techniques, measured trials."""

    ranges: Ranges = field(default_factory=dict)
    weights: dict[tuple[str, ...], dict[str, QuantizedWeight]] = field(default_factory=dict)
    measured: dict[Trial, OutputNoise] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Recipes of one form of the model, with their parameters and measurements.

    variant         form of the model
    statistics      statistics of its calibrated tensors
    methods         calibration methods; with the weights' scales no bias overflows with any of them
    method_options  options of the methods
    weight_options  options of weight quantization, without techniques
    writer          writer of the files
    references      validation samples with the float model's values; None where nothing is measured
    settings        thresholds of the search
    others          candidates of other forms, the plain one first; equal weights are not quantized again
    cache           results that are needed again
    executor        where weights are rounded
    """

    variant: Variant
    statistics: Statistics
    methods: Sequence[str]
    method_options: MethodOptions
    weight_options: WeightOptions
    writer: Writer
    references: References | None
    settings: SearchSettings
    others: "tuple[Candidates, ...]" = ()
    cache: Cache = field(default_factory=Cache)
    executor: Executor = IN_PROCESS

    def recipe(self, method: str, techniques: Sequence[str]) -> Recipe:
        """Return the recipe of this form with a method and techniques."""
        form = self.variant.recipe
        all_techniques = tuple(dict.fromkeys((*form.techniques, *techniques)))
        return replace(form, method=method, techniques=all_techniques)

    def parameters(self, recipe: Recipe) -> Parameters:
        """Return the quantization parameters of a recipe whose plan is this form's, or a part of it."""
        if not recipe.plan.nodes:
            return Parameters()
        activations = self._activations(recipe.plan, recipe.method)
        if recipe.techniques not in self.cache.weights:
            self.cache.weights[recipe.techniques] = self._quantize_weights(recipe.techniques)
        return make_parameters(recipe.plan, activations, self.cache.weights[recipe.techniques])

    def _activations(self, plan: Plan, method: str) -> dict[str, QuantParams]:
        return activation_parameters(plan, self.statistics, method, self.method_options, self.cache.ranges)

    def _quantize_weights(self, techniques: tuple[str, ...]) -> dict[str, QuantizedWeight]:
        """Quantize the weights of the form; the smallest scale over the methods bounds the biases."""
        plan = self.variant.plan
        by_method = [self._activations(plan, method) for method in self.methods]
        scales = {name: min(float(params[name].scale) for params in by_method) for name in by_method[0]}
        options = with_techniques(self.weight_options, techniques)
        same = self._unchanged(techniques)
        skip, moments = frozenset(same), self.variant.moments
        return same | quantize_weights(plan, scales, moments, options, skip, self.executor)

    def of(self, variant: Variant) -> "Candidates":
        """Return the candidates of another form with the same tensors; they share the ranges."""
        return replace(
            self, variant=variant, others=(*self.others, self), cache=Cache(ranges=self.cache.ranges)
        )

    def with_statistics(self, statistics: Statistics) -> "Candidates":
        """Return the candidates with the same weights and other statistics."""
        return replace(self, statistics=statistics, cache=Cache(weights=self.cache.weights))

    def forget_others(self, techniques: tuple[str, ...]) -> None:
        """Drop all cached weights except those with these techniques."""
        for each in (self, *self.others):
            wanted = self._shared_techniques(techniques, each)
            for unwanted in [key for key in each.cache.weights if key != wanted]:
                del each.cache.weights[unwanted]

    def _shared_techniques(self, techniques: tuple[str, ...], other: "Candidates") -> tuple[str, ...]:
        """Return the techniques of another form's weights that this form can share."""
        own = set(self.variant.recipe.techniques) - set(other.variant.recipe.techniques)
        return tuple(t for t in techniques if t not in own)

    def _unchanged(self, techniques: tuple[str, ...]) -> dict[str, QuantizedWeight]:
        """Return the weights of layers with the same inputs that other forms have quantized already."""
        found: dict[str, QuantizedWeight] = {}
        layers, weights = layer_inputs(self.variant.plan), _weight_names(self.variant.plan)
        for other in self.others:
            quantized = other.cache.weights.get(self._shared_techniques(techniques, other), {})
            other_layers = layer_inputs(other.variant.plan)
            same = _weight_names(other.variant.plan).items() & weights.items()
            unchanged = {name for name, _ in same if layers.get(name) == other_layers.get(name)}
            found |= {name: weight for name, weight in quantized.items() if name in unchanged}
        return found

    def model(self, recipe: Recipe) -> ir.Model:
        """Return the quantized model of a recipe."""
        return self.writer.write(recipe, self.parameters(recipe))

    def measure(self, recipe: Recipe) -> OutputNoise:
        """Measure the noise of a recipe's outputs, in front of a final Softmax."""
        assert self.references is not None
        return self.references.measure_before_softmax(self.model(recipe))

    def best(self, recipes: Sequence[Recipe], *, cautious: bool = False) -> Choice:
        """Choose the recipe with the least noise; the first one where nothing is measured.

        Args:
            recipes: recipes of this form.
            cautious: among the candidates within one standard error of the best, choose the first that is
                expected to change about as few decisions as any of them.
        """
        models = one_ahead(self._model_to_try, recipes)
        trials = [self._try(recipe, model) for recipe, model in zip(recipes, models, strict=True)]
        if self.references is None:
            return Choice(recipes[0], trials[0], list(self.cache.measured))
        kept = min(trials, key=lambda trial: trial.noise or 0.0)
        if cautious:
            alike = [trial for trial in trials if trial is kept or self.as_good(trial, self, kept)]
            fewest = min(trial.changes or 0.0 for trial in alike)
            most = self.settings.max_change_ratio * fewest
            kept = next(trial for trial in alike if (trial.changes or 0.0) <= most)
        recipe = next(each for each, trial in zip(recipes, trials, strict=True) if trial is kept)
        return Choice(recipe, kept, list(self.cache.measured))

    def _tried(self, recipe: Recipe) -> Trial | None:
        """Return the trial of a recipe that has been measured."""
        key = recipe.method, recipe.techniques
        return next((each for each in self.cache.measured if (each.method, each.techniques) == key), None)

    def _model_to_try(self, recipe: Recipe) -> ir.Model | None:
        """Return the quantized model of a recipe that has to be measured."""
        if self.references is None or self._tried(recipe):
            return None
        with activity(f"trying {_described(recipe)}"):
            return self.model(recipe)

    def _try(self, recipe: Recipe, model: ir.Model | None) -> Trial:
        """Return the trial of a recipe, measured once."""
        key = recipe.method, recipe.techniques
        if self.references is None:
            return Trial(*key, None)
        trial = self._tried(recipe)
        if trial is None:
            assert model is not None
            with activity(f"trying {_described(recipe)}"):
                measured = self.references.measure_before_softmax(model)
            trial = Trial(*key, measured.sqnr_db, measured.mean_noise, measured.changes)
            self.cache.measured[trial] = measured
        return trial

    def as_good(self, trial: Trial, others: "Candidates", other: Trial) -> bool:
        """Tell whether a trial is at most one standard error worse than another candidate's."""
        own, reference = self.cache.measured.get(trial), others.cache.measured.get(other)
        return own is not None and reference is not None and own.as_good_as(reference)

    def widest_first(self) -> list[str]:
        """Return the methods by the width of their clipping ranges (geometric mean), widest first."""
        params = {method: self._activations(self.variant.plan, method).values() for method in self.methods}
        return sorted(
            self.methods, key=lambda method: -sum(math.log(float(each.scale)) for each in params[method])
        )


def _described(recipe: Recipe) -> str:
    """Return the method and the techniques of a recipe."""
    techniques = (technique.replace("-", " ") for technique in recipe.techniques)
    return ", ".join((recipe.method, *techniques))


def _weight_names(plan: Plan) -> dict[str, tuple[str | None, ...]]:
    """Return the names of each node's weight and bias; a form that changes them gives them new names."""
    return {
        name: tuple(value.name if value is not None else None for value in planned.node.inputs[1:3])
        for name, planned in plan.nodes.items()
    }


def first_method(method: str) -> str:
    """Return the calibration method with which forms and techniques are compared."""
    return Method.MSE if method == Method.AUTO else method


def choose(candidates: Candidates, method: str, technique_sets: Sequence[tuple[str, ...]]) -> Choice:
    """Choose the techniques with the MSE method, then the calibration method if the user left it open.

    Among methods within one standard error of the best, the one that clips least is kept: a few samples lack
    rare values, and a clipped value can make a whole output wrong.
    """
    first = first_method(method)
    choice = candidates.best([candidates.recipe(first, techniques) for techniques in technique_sets])
    if method != Method.AUTO or candidates.references is None:
        return choice
    recipes = [candidates.recipe(each, choice.kept.techniques) for each in candidates.widest_first()]
    return candidates.best(recipes, cautious=True)
