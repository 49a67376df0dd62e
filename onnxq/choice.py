"""Try what can be tried, and keep what brings the outputs closest to float on held-out samples.

Every candidate runs in the runtime's integer kernels, as the written file will.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxq.calibration.methods import METHODS, MethodOptions
from onnxq.calibration.moments import LayerInput, Moments
from onnxq.calibration.statistics import Statistics
from onnxq.metrics import OutputError
from onnxq.model.runtime import open_session, run
from onnxq.options import Method
from onnxq.parameters import Parameters, activation_parameters, make_parameters
from onnxq.plan import Plan
from onnxq.schemes import Array, Feeds
from onnxq.weights import QuantizedWeight, WeightOptions, quantize_weights


@dataclass(frozen=True)
class References:
    """Held-out samples with the float model's outputs."""

    names: Sequence[str]
    feeds: Sequence[Feeds]
    outputs: Sequence[Sequence[Array]]

    def sqnr_db(self, model: ir.Model) -> float:
        """How close a model in memory comes, in dB."""
        session = open_session(model)
        error = OutputError(self.names)
        for feeds, expected in zip(self.feeds, self.outputs, strict=True):
            error.add(expected, run(session, feeds, "held out"))
        return error.sqnr_db() or 0.0


@dataclass(frozen=True)
class Trial:
    """One candidate and its quality on the held-out samples, dB; None where it was not measured."""

    method: Method
    techniques: tuple[str, ...]
    sqnr_db: float | None


@dataclass(frozen=True)
class Choice:
    """What was kept, and all that was tried."""

    kept: Trial
    parameters: Parameters
    trials: list[Trial]


@dataclass
class Candidates:
    """Makes parameters from a method and a set of techniques; weights are made once a set."""

    plan: Plan
    statistics: Statistics
    moments: Mapping[LayerInput, Moments]
    method_options: MethodOptions
    weight_options: WeightOptions
    write: Callable[[Parameters], ir.Model]
    references: References | None

    def __post_init__(self) -> None:
        self._weights: dict[tuple[str, ...], dict[str, QuantizedWeight]] = {}
        self.trials: list[Trial] = []

    def parameters(self, method: Method, techniques: tuple[str, ...]) -> Parameters:
        """All numbers for a method and techniques (names of `WeightOptions` that are on)."""
        activations = activation_parameters(self.plan, self.statistics, method, self.method_options)
        if techniques not in self._weights:
            widest = activation_parameters(self.plan, self.statistics, Method.MINMAX, self.method_options)
            scales = {name: float(params.scale) for name, params in widest.items()}
            options = replace(self.weight_options, gptq="gptq" in techniques, bias_correction="bias_correction" in techniques)
            self._weights[techniques] = quantize_weights(self.plan, scales, self.moments, options)
        return make_parameters(self.plan, activations, self._weights[techniques])

    def best(self, options: Sequence[tuple[Method, tuple[str, ...]]]) -> Choice:
        """The best of some candidates; the first where nothing can be measured."""
        kept: tuple[Trial, Parameters] | None = None
        for method, techniques in options:
            parameters = self.parameters(method, techniques)
            if self.references is None or len(options) == 1:
                quality = None
            else:
                quality = self.references.sqnr_db(self.write(parameters))
            trial = Trial(method, techniques, quality)
            self.trials.append(trial)
            if kept is None or (quality is not None and quality > (kept[0].sqnr_db or 0.0)):
                kept = trial, parameters
            if quality is None:
                break
        assert kept is not None
        return Choice(*kept, self.trials)


def choose(candidates: Candidates, method: Method, technique_sets: Sequence[tuple[str, ...]]) -> Choice:
    """The techniques first, with a middling method; then the method, if it is left open."""
    first = Method.MSE if method is Method.AUTO else method
    choice = candidates.best([(first, techniques) for techniques in technique_sets])
    if method is not Method.AUTO or candidates.references is None:
        return choice
    return candidates.best([(each, choice.kept.techniques) for each in METHODS])
