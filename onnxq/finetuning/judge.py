"""Measurement of trained values in the runtime's own kernels, and whether they are kept."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.comparison.errors import decibels
from onnxq.data.sample import Sample
from onnxq.search.inputs import Inputs
from onnxq.search.references import OutputNoise, References
from onnxq.search.settings import SearchSettings

LEAST_GAIN_DB = 0.1
"""Least gain for which a result is kept, dB."""
LEAST_ERRORS = 1.0
"""Least gain of a typical sample, in standard errors."""
QUIET = 0.01
"""Share of the mean noise of all samples: a sample far below it does not matter. Chosen, not tuned."""
AS_FLOAT_DB = SearchSettings().as_float_db
"""SQNR of the worst part from which outputs count as equal to float, so that nothing is to be gained."""
ENOUGH_DECIDING, ENOUGH_SAMPLES = 7, 24
"""Fewer deciding samples choose by chance; so many are kept aside to decide where so many samples are given.

Of 20 trainings on 12 samples, 4 of which decide, one of six kept results lost 1.4 dB on others; of 40 on 24
and 50 samples no kept one lost more than 0.1 dB.
"""
WORST_LOSS_DB = 0.1
"""Loss of the worst part of the outputs that a gain of the others may cost, dB."""


@dataclass(frozen=True, eq=False)
class Judge:
    """Measurement of written models in the runtime's own kernels, on samples kept aside."""

    references: References

    @staticmethod
    def of(inputs: Inputs, samples: Sequence[Sample]) -> "Judge":
        """Run the float model on the samples."""
        return Judge(References.of(inputs.model, samples, [], inputs.specs, inputs.feedback))

    def measure(self, model: ir.Model) -> OutputNoise:
        """Measure the noise of the outputs."""
        return self.references.measure_before_softmax(model)

    def compared(self, before: ir.Model, after: ir.Model) -> tuple[OutputNoise, OutputNoise]:
        """Measure two models."""
        return self.measure(before), self.measure(after)

    def noise(self, model: ir.Model) -> float:
        """Return noise / signal of the outputs, mean over their parts."""
        return self.measure(model).mean_noise


def verdict(before: OutputNoise, after: OutputNoise) -> tuple[bool, str]:
    """Tell whether the trained values are kept, and why.

    Args:
        before: on the samples that decide, with the values before the training.
        after: with the trained values.
    """
    if before.sqnr_db >= AS_FLOAT_DB:
        return False, "the file before counts as equal to float on the samples that decide"
    if not decibels(after.mean_noise) > decibels(before.mean_noise) + LEAST_GAIN_DB:
        return False, "it came no closer to float on the samples that decide"
    if not typical_gain(before, after) > LEAST_ERRORS:
        return False, "its gain on the samples that decide may be chance"
    if after.sqnr_db < before.sqnr_db - WORST_LOSS_DB:
        return False, "its worst output came farther from float on the samples that decide"
    return True, "it is closer to float on samples that nothing was trained on"


def typical_gain(before: OutputNoise, after: OutputNoise) -> float:
    """Return how much less noise a typical sample has, in standard errors.

    Gains are ratios: of the differences, one or two samples often hold nearly all, such as the few images
    in which a detector finds something, and these decide by chance. J. M. Bland and D. G. Altman, "The use
    of transformation when comparing two means", BMJ 312:1153, 1996.

    Args:
        before: on the samples that decide.
        after: on the same samples.

    Returns:
        The gain; infinite where the file before does not run on all of them.
    """
    if not before.samples or not np.isfinite(before.samples).all():
        return math.inf
    old, new = (np.mean(np.asarray(each.samples), axis=1) for each in (before, after))
    quiet = QUIET * old.mean()
    gains = np.log((old + quiet) / (new + quiet))
    if not gains.any():
        return 0.0
    count = len(gains)
    error = math.sqrt(count) * gains.std(ddof=min(1, count - 1))
    with np.errstate(divide="ignore"):
        return float(gains.sum() / error)
