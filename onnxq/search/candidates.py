"""Candidates: forms of the model, calibration methods and techniques, compared on validation samples.

Every candidate runs in the runtime's integer kernels, as the written file will.
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
from onnxq.search.references import Judged, References
from onnxq.search.settings import SearchSettings
from onnxq.search.trial import Choice, Trial
from onnxq.transforms.registry import with_techniques
from onnxq.types import QuantParams


@dataclass(frozen=True, eq=False)
class Variant:
    """A form of the normalized model.

    recipe   with the form's model and plan; its techniques are those that made the form
    moments  of its layers' inputs
    divided  its tensors that are tensors of the plain form, divided by channel
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
        """The form's plan, with everything quantized that its recipe allows."""
        return self.recipe.plan


@dataclass
class Cache:
    """Results that candidates of one form need again: ranges, weights by techniques, judged trials."""

    ranges: Ranges = field(default_factory=dict)
    weights: dict[tuple[str, ...], dict[str, QuantizedWeight]] = field(default_factory=dict)
    judged: dict[Trial, Judged] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Recipes of one form of the model, with their parameters and measurements.

    variant         the form
    statistics      of its calibrated tensors
    methods         every calibration method that may be asked for: weights are scaled so that no bias overflows with any
    method_options  options of the methods
    weight_options  options of weight quantization, without techniques
    writer          writes the files
    references      validation samples with the float model's values; None where nothing is measured
    settings        thresholds of the search
    others          candidates of other forms, the plain one first; equal weights are not quantized again
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

    def recipe(self, method: str, techniques: Sequence[str]) -> Recipe:
        """Return the recipe of this form with a method and techniques."""
        form = self.variant.recipe
        together = tuple(dict.fromkeys((*form.techniques, *techniques)))
        return replace(form, method=method, techniques=together)

    def parameters(self, recipe: Recipe) -> Parameters:
        """Return all numbers of a recipe whose plan is this form's, or a part of it."""
        if not recipe.plan.nodes:
            return Parameters()
        activations = self._activations(recipe.plan, recipe.method)
        if recipe.techniques not in self.cache.weights:
            self.cache.weights[recipe.techniques] = self._quantize_weights(recipe.techniques)
        return make_parameters(recipe.plan, activations, self.cache.weights[recipe.techniques])

    def _activations(self, plan: Plan, method: str) -> dict[str, QuantParams]:
        return activation_parameters(plan, self.statistics, method, self.method_options, self.cache.ranges)

    def _quantize_weights(self, techniques: tuple[str, ...]) -> dict[str, QuantizedWeight]:
        plan = self.variant.plan
        each = [self._activations(plan, method) for method in self.methods]
        scales = {name: min(float(params[name].scale) for params in each) for name in each[0]}
        options = with_techniques(self.weight_options, techniques)
        same = self._unchanged(techniques)
        return same | quantize_weights(plan, scales, self.variant.moments, options, skip=frozenset(same))

    def of(self, variant: Variant) -> "Candidates":
        """Return candidates of another form with the same tensors, whose ranges are known already."""
        return replace(
            self, variant=variant, others=(*self.others, self), cache=Cache(ranges=self.cache.ranges)
        )

    def forget_others(self, techniques: tuple[str, ...]) -> None:
        """Drop all weights but those with these techniques, which alone are needed from here on."""
        for each in (self, *self.others):
            wanted = self._without_changes(techniques, each)
            for made in [made for made in each.cache.weights if made != wanted]:
                del each.cache.weights[made]

    def _without_changes(self, techniques: tuple[str, ...], other: "Candidates") -> tuple[str, ...]:
        """Return the techniques with which another form made weights that this one may share."""
        own = set(self.variant.recipe.techniques) - set(other.variant.recipe.techniques)
        return tuple(t for t in techniques if t not in own)

    def _unchanged(self, techniques: tuple[str, ...]) -> dict[str, QuantizedWeight]:
        """Return the weights that other forms have quantized already: those of layers with the same inputs."""
        found: dict[str, QuantizedWeight] = {}
        layers, weights = layer_inputs(self.variant.plan), _weight_names(self.variant.plan)
        for other in self.others:
            made = other.cache.weights.get(self._without_changes(techniques, other), {})
            before = layer_inputs(other.variant.plan)
            same = _weight_names(other.variant.plan).items() & weights.items()
            kept = {name for name, _ in same if layers.get(name) == before.get(name)}
            found |= {name: weight for name, weight in made.items() if name in kept}
        return found

    def model(self, recipe: Recipe) -> ir.Model:
        """Return the quantized model of a recipe."""
        return self.writer.write(recipe, self.parameters(recipe))

    def judged(self, recipe: Recipe) -> Judged:
        """Measure how close the outputs come to float, in front of a final Softmax."""
        assert self.references is not None
        return self.references.inner_judged(self.model(recipe))

    def best(self, recipes: Sequence[Recipe], *, cautious: bool = False) -> Choice:
        """Choose the recipe with the least noise; the first where nothing can be measured.

        With caution: of the candidates that can hardly be told from the best, the first that is expected to change no more
        decisions.
        """
        measured = [self._tried(recipe) for recipe in recipes]
        if self.references is None:
            return Choice(recipes[0], measured[0], list(self.cache.judged))
        kept = min(measured, key=lambda trial: trial.noise or 0.0)
        if cautious:
            alike = [trial for trial in measured if trial is kept or self.as_good(trial, self, kept)]
            fewest = min(trial.changes or 0.0 for trial in alike)
            most = self.settings.alike_changes * fewest
            kept = next(trial for trial in alike if (trial.changes or 0.0) <= most)
        recipe = next(each for each, trial in zip(recipes, measured, strict=True) if trial is kept)
        return Choice(recipe, kept, list(self.cache.judged))

    def _tried(self, recipe: Recipe) -> Trial:
        if self.references is None:
            return Trial(recipe.method, recipe.techniques, None)
        same = recipe.method, recipe.techniques
        known = next((each for each in self.cache.judged if (each.method, each.techniques) == same), None)
        if known is None:
            judged = self.judged(recipe)
            known = Trial(*same, judged.sqnr_db, judged.mean_noise, judged.changes)
            self.cache.judged[known] = judged
        return known

    def as_good(self, trial: Trial, others: "Candidates", other: Trial) -> bool:
        """Tell whether a trial is as good as another candidate's, or can hardly be told apart from it."""
        mine, its = self.cache.judged.get(trial), others.cache.judged.get(other)
        return mine is not None and its is not None and mine.as_good_as(its)

    def widest_first(self) -> list[str]:
        """Return the methods by the ranges they choose, the widest on the whole first."""
        params = {method: self._activations(self.variant.plan, method).values() for method in self.methods}
        return sorted(
            self.methods, key=lambda method: -sum(math.log(float(each.scale)) for each in params[method])
        )


def _weight_names(plan: Plan) -> dict[str, tuple[str | None, ...]]:
    """Return the names of each node's weight and bias; a form that changes them names them anew."""
    return {
        name: tuple(value.name if value is not None else None for value in planned.node.inputs[1:3])
        for name, planned in plan.nodes.items()
    }


def choose(candidates: Candidates, method: str, technique_sets: Sequence[tuple[str, ...]]) -> Choice:
    """Choose the techniques with a middling method, then the method if it is left open.

    Of methods that can hardly be told apart, the one that clips least is kept: rare values are missing in a few samples, and
    a clipped one makes a whole output wrong.
    """
    first = Method.MSE if method == Method.AUTO else method
    choice = candidates.best([candidates.recipe(first, techniques) for techniques in technique_sets])
    if method != Method.AUTO or candidates.references is None:
        return choice
    recipes = [candidates.recipe(each, choice.kept.techniques) for each in candidates.widest_first()]
    return candidates.best(recipes, cautious=True)
