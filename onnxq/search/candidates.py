"""Try what can be tried, and keep what brings the outputs closest to float on held-out samples.

Every candidate runs in the runtime's integer kernels, as the written file will.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnxq.calibration.collect import Divided
from onnxq.calibration.methods import MethodOptions
from onnxq.calibration.moments import LayerInput, Moments
from onnxq.calibration.statistics import Statistics
from onnxq.options import Method, Technique
from onnxq.plan.plan import Plan
from onnxq.quantization.parameters import Parameters, Ranges, activation_parameters, make_parameters
from onnxq.quantization.weights import QuantizedWeight, WeightOptions, layer_inputs, quantize_weights
from onnxq.search.mixed_precision import ALONE, REASON, Fallback, Goal, Work, fall_back
from onnxq.search.references import Judged, References
from onnxq.types import QuantParams

QUICK = 6
"""Samples over which each node's own noise is measured; where outputs have several parts, one more for each, up to a few."""
FEW_MORE = 1.1
"""Of candidates that can hardly be told apart, those that are expected to change so many times the fewest decisions are alike in it too."""


@dataclass(frozen=True)
class Trial:
    """One candidate and what was measured of it on the samples that decide; None where nothing was.

    sqnr_db  of the worst part of the outputs, in front of a final Softmax, dB
    noise    noise / signal, mean over the parts: what candidates are compared by
    changes  share of decisions that are expected to change, 0..1
    """

    method: Method
    techniques: tuple[str, ...]
    sqnr_db: float | None
    noise: float | None = None
    changes: float | None = None


@dataclass(frozen=True)
class Variant:
    """A form of the normalized model: its plan, its layers' moments, and the techniques that made it.

    divided  its tensors that are others of the plain form, divided
    """

    model: ir.Model
    plan: Plan
    moments: Mapping[LayerInput, Moments]
    techniques: tuple[str, ...] = ()
    divided: Mapping[str, Divided] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """What was kept, and all that was tried."""

    kept: Trial
    model: ir.Model
    plan: Plan
    parameters: Parameters
    trials: list[Trial]
    fallback: Fallback | None = None


@dataclass
class Candidates:
    """Makes parameters from a method and a set of techniques; weights are made once a set.

    methods  all that may be asked for: weights are scaled so that no bias overflows with any of them
    others   of other forms of the model, the plain one first; weights that they have made already are not made again
    """

    variant: Variant
    statistics: Statistics
    methods: Sequence[Method]
    method_options: MethodOptions
    weight_options: WeightOptions
    write: Callable[[ir.Model, Plan, Parameters], ir.Model]
    references: References | None
    others: "tuple[Candidates, ...]" = ()

    def __post_init__(self) -> None:
        self._ranges: Ranges = {}
        self._weights: dict[tuple[str, ...], dict[str, QuantizedWeight]] = {}
        self._judged: dict[Trial, Judged] = {}

    @property
    def trials(self) -> list[Trial]:
        """What was tried."""
        return list(self._judged)

    def parameters(self, plan: Plan, method: Method, techniques: tuple[str, ...]) -> Parameters:
        """All numbers for a plan (this one, or a part of it), a method and techniques."""
        activations = self._activations(plan, method)
        if techniques not in self._weights:
            self._weights[techniques] = self._quantize_weights(techniques)
        return make_parameters(plan, activations, self._weights[techniques])

    def _activations(self, plan: Plan, method: Method) -> dict[str, QuantParams]:
        return activation_parameters(plan, self.statistics, method, self.method_options, self._ranges)

    def _quantize_weights(self, techniques: tuple[str, ...]) -> dict[str, QuantizedWeight]:
        plan = self.variant.plan
        each = [self._activations(plan, method) for method in self.methods]
        scales = {name: min(float(params[name].scale) for params in each) for name in each[0]}
        options = replace(
            self.weight_options,
            gptq=Technique.GPTQ in techniques,
            bias_correction=Technique.BIAS_CORRECTION in techniques,
        )
        same = self._unchanged(techniques)
        return same | quantize_weights(plan, scales, self.variant.moments, options, skip=frozenset(same))

    def of(self, variant: Variant) -> "Candidates":
        """Those of another form, with what these know already."""
        result = replace(self, variant=variant, others=(*self.others, self))
        result._ranges = self._ranges
        return result

    def forget_others(self, techniques: tuple[str, ...]) -> None:
        """Keep of all weights only those with these techniques: nothing else is asked for any more."""
        for each in (self, *self.others):
            wanted = self._without_changes(techniques, each)
            each._weights = {made: weights for made, weights in each._weights.items() if made == wanted}

    def _without_changes(self, techniques: tuple[str, ...], other: "Candidates") -> tuple[str, ...]:
        """The techniques with which another variant made weights that this one may share."""
        return tuple(
            t for t in techniques if t not in set(self.variant.techniques) - set(other.variant.techniques)
        )

    def _unchanged(self, techniques: tuple[str, ...]) -> dict[str, QuantizedWeight]:
        """Weights that other variants have quantized already: those of layers that take the same inputs."""
        found: dict[str, QuantizedWeight] = {}
        layers, weights = layer_inputs(self.variant.plan), _weight_names(self.variant.plan)
        for other in self.others:
            made = other._weights.get(self._without_changes(techniques, other), {})
            before = layer_inputs(other.variant.plan)
            same = _weight_names(other.variant.plan).items() & weights.items()
            kept = {name for name, _ in same if layers.get(name) == before.get(name)}
            found |= {name: weight for name, weight in made.items() if name in kept}
        return found

    def model(self, plan: Plan, trial: Trial) -> ir.Model:
        """A part of the plan with a trial's method and techniques."""
        return self.write(self.variant.model, plan, self.parameters(plan, trial.method, trial.techniques))

    def judged(self, plan: Plan, trial: Trial) -> Judged:
        """How close the outputs come, in front of a final Softmax."""
        assert self.references is not None
        return self.references.inner_judged(self.model(plan, trial))

    def best(self, options: Sequence[tuple[Method, tuple[str, ...]]], *, cautious: bool = False) -> Choice:
        """The best of some candidates; the first where nothing can be measured.

        With caution: of those that can hardly be told from the best, the first that is expected to change no more decisions.
        """
        measured = [
            self._tried(method, tuple(dict.fromkeys((*self.variant.techniques, *techniques))))
            for method, techniques in options
        ]
        kept = (
            min(measured, key=lambda trial: trial.noise or 0.0)
            if self.references is not None
            else measured[0]
        )
        if cautious and self.references is not None:
            alike = [trial for trial in measured if trial is kept or self.as_good(trial, self, kept)]
            fewest = min(trial.changes or 0.0 for trial in alike)
            kept = next(trial for trial in alike if (trial.changes or 0.0) <= FEW_MORE * fewest)
        plan = self.variant.plan
        return Choice(
            kept, self.variant.model, plan, self.parameters(plan, kept.method, kept.techniques), self.trials
        )

    def _tried(self, method: Method, techniques: tuple[str, ...]) -> Trial:
        if self.references is None:
            return Trial(method, techniques, None)
        known = next(
            (trial for trial in self._judged if (trial.method, trial.techniques) == (method, techniques)),
            None,
        )
        if known is None:
            judged = self.judged(self.variant.plan, Trial(method, techniques, None))
            known = Trial(method, techniques, judged.sqnr_db, judged.mean_noise, judged.changes)
            self._judged[known] = judged
        return known

    def as_good(self, trial: Trial, others: "Candidates", other: Trial) -> bool:
        """Whether a trial can hardly be told apart from another candidate's, or is better."""
        mine, its = self._judged.get(trial), others._judged.get(other)
        return mine is not None and its is not None and mine.as_good_as(its)

    def widest_first(self) -> list[Method]:
        """The methods by what they leave outside of the activations' ranges, on the whole: the widest ranges first."""
        params = {method: self._activations(self.variant.plan, method).values() for method in self.methods}
        return sorted(
            self.methods, key=lambda method: -sum(math.log(float(each.scale)) for each in params[method])
        )


def _weight_names(plan: Plan) -> dict[str, tuple[str | None, ...]]:
    """The names of each node's weight and bias; a variant that changes them gives them others."""
    return {
        name: tuple(value.name if value is not None else None for value in planned.node.inputs[1:3])
        for name, planned in plan.nodes.items()
    }


def choose(candidates: Candidates, method: Method, technique_sets: Sequence[tuple[str, ...]]) -> Choice:
    """The techniques first, with a middling method; then the method, if it is left open.

    Of methods that can hardly be told apart the one that cuts off least: what is rare is missing in a few samples, and where it
    is cut off, a whole output is wrong.
    """
    first = Method.MSE if method is Method.AUTO else method
    choice = candidates.best([(first, techniques) for techniques in technique_sets])
    if method is not Method.AUTO or candidates.references is None:
        return choice
    return candidates.best(
        [(each, choice.kept.techniques) for each in candidates.widest_first()], cautious=True
    )


def keep_outputs(
    candidates: Candidates,
    choice: Choice,
    work: Work,
    without: Callable[[frozenset[str], str], Plan],
    goal: Goal,
) -> Choice:
    """Leave nodes float until the goal holds, where it does not; `without` plans with such nodes, and why they are."""
    references = candidates.references
    if choice.kept.sqnr_db is None or references is None:
        return choice

    def written(names: frozenset[str], why: str) -> ir.Model:
        return candidates.model(without(names, why), choice.kept)

    before = references.judged(written(frozenset(), REASON), at_outputs=goal.asked)
    telling = references.telling(before, QUICK)
    fallback = fall_back(
        replace(work, values=references.values(telling)),
        lambda names: references.inner_judged(written(names, ALONE), telling).noise,
        lambda names: references.judged(written(names, REASON), at_outputs=goal.asked).bound,
        before.bound,
        goal,
    )
    if not fallback.nodes:
        return replace(choice, fallback=fallback if goal.asked else None)
    plan = without(frozenset(fallback.nodes), REASON)
    parameters = candidates.parameters(plan, choice.kept.method, choice.kept.techniques)
    return replace(choice, plan=plan, parameters=parameters, fallback=fallback)
