"""Measurement of trained values in the runtime's integer kernels, and whether they are kept."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnxq.comparison.errors import decibels
from onnxq.data.sample import Sample
from onnxq.finetuning.training import State
from onnxq.formats.recipe import Recipe
from onnxq.quantization.parameters import Parameters
from onnxq.search.inputs import Inputs
from onnxq.search.references import OutputNoise, References

LEAST_GAIN_DB = 0.1
"""Least gain for which a result is kept, dB."""
WORST_LOSS_DB = 0.1
"""Loss of the worst part of the outputs that a gain of the others may cost, dB."""


@dataclass(frozen=True, eq=False)
class Judge:
    """Measurement of parameters in the runtime's integer kernels, on samples kept aside."""

    inputs: Inputs
    recipe: Recipe
    references: References

    @staticmethod
    def of(inputs: Inputs, recipe: Recipe, samples: Sequence[Sample]) -> "Judge":
        """Run the float model on the samples."""
        return Judge(inputs, recipe, References.of(inputs.model, samples, [], inputs.specs, inputs.feedback))

    def measure(self, parameters: Parameters) -> OutputNoise:
        """Measure the noise of the outputs."""
        model = self.inputs.writer().write(self.recipe, parameters)
        return self.references.measure_before_softmax(model)

    def compared(self, before: Parameters, after: Parameters) -> tuple[OutputNoise, OutputNoise]:
        """Measure two sets of parameters."""
        return self.measure(before), self.measure(after)

    def noise(self, parameters: Parameters) -> float:
        """Return noise / signal of the outputs, mean over their parts."""
        return self.measure(parameters).mean_noise


def verdict(before: OutputNoise, after: OutputNoise, start: float, state: State) -> tuple[bool, str]:
    """Tell whether the trained values are kept, and why.

    Args:
        before: on the samples that decide, with the values before the training.
        after: with the trained values.
        start: noise / signal before the training on the samples that chose the step.
        state: the training.
    """
    if not state.noise < start:
        return False, "no step came closer to float on the samples kept aside"
    if not decibels(after.mean_noise) > decibels(before.mean_noise) + LEAST_GAIN_DB:
        return False, "it came no closer to float on the samples that decide"
    if after.sqnr_db < before.sqnr_db - WORST_LOSS_DB:
        return False, "its worst output came farther from float on the samples that decide"
    return True, "it is closer to float on samples that nothing was trained on"
