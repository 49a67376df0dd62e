"""The samples of a training, by their use."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from onnxq.data.sample import Sample
from onnxq.data.split import scattered
from onnxq.errors import DataError
from onnxq.formats.recipe import Recipe
from onnxq.options import Technique
from onnxq.search.inputs import Inputs

LEAST_SAMPLES = 9
"""Fewer samples leave none to judge by."""
STOPPING, MOST_STOPPING = 10, 24
"""One calibration sample in STOPPING decides which step is best, at most MOST_STOPPING."""


@dataclass(frozen=True)
class Division:
    """The samples of a training, by their use.

    training  trained on; they calibrate, too
    stopping  decide which step is best; they calibrate, too
    deciding  decide between the weights before and after: the samples that chose the methods, and the
              stopping ones. Both favor the weights before, which were chosen and rounded for them
    unseen    report what was gained, and decide nothing
    """

    training: Sequence[Sample]
    stopping: Sequence[Sample]
    deciding: Sequence[Sample]
    unseen: Sequence[Sample]


def divided(inputs: Inputs) -> Division:
    """Divide the samples; the search sees the same as without a training.

    Raises:
        DataError: there are too few samples.
    """
    samples, starts = inputs.samples, inputs.feedback.starts if inputs.feedback.states else None
    firsts = [i for i, each in enumerate(samples.calibration) if starts is None or each.name in starts]
    parts = [samples.calibration[i:j] for i, j in pairwise([*firsts, len(samples.calibration)])]
    count = min(MOST_STOPPING, max(1, len(parts) // STOPPING))
    chosen = scattered(len(parts), count)
    stopping = [each for i, part in enumerate(parts) if i in chosen for each in part]
    training = [each for i, part in enumerate(parts) if i not in chosen for each in part]
    if not training or not samples.unseen or len(samples.validation) < 2:
        raise DataError(
            f"{len(samples.every)} samples are too few to finetune and to judge the result: "
            f"give at least {LEAST_SAMPLES}"
        )
    return Division(training, stopping, [*samples.validation, *stopping], samples.unseen)


def trained_on(inputs: Inputs, recipe: Recipe) -> frozenset[str]:
    """Return the names of the samples that the weights of a recipe were trained on."""
    trained = Technique.FINETUNING in recipe.techniques
    return frozenset(sample.name for sample in inputs.samples.calibration) if trained else frozenset()
