"""Types of all scores: contributions of samples, the total of a score, and kinds of scores."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxq.errors import DataError
from onnxq.types import Array, Feeds


@dataclass(frozen=True)
class Case:
    """One sample with a model's outputs.

    feeds, outputs  arrays by name
    label           text from the labels; None without one
    expected        outputs of the float model; None for the float model itself
    """

    name: str
    feeds: Feeds
    outputs: dict[str, Array]
    label: str | None
    expected: dict[str, Array] | None = None

    def of_float(self) -> "Case":
        """Return the sample with the float model's outputs."""
        return self if self.expected is None else Case(self.name, self.feeds, self.expected, self.label)


@dataclass(frozen=True)
class Score:
    """A metric as a function of per-sample contributions, so that samples can be resampled.

    name          name in reports
    contribution  part of one sample: a vector of fixed length, any object, or None to skip the sample
    total         value of contributions [samples, length], or of an object array if `objects`
    higher        whether higher is better
    share         whether gates count percentage points (accuracy-like) instead of the metric's unit
    objects       whether contributions are objects
    answer        the model's answer as text, which reports show for the worst samples; None if there is none
    """

    name: str
    contribution: Callable[[Case], object | None]
    total: Callable[[Array], float]
    higher: bool = True
    share: bool = True
    objects: bool = False
    answer: Callable[[Case], str] | None = None

    def rows(self, contributions: list[object]) -> Array:
        """Pack contributions for `total`."""
        if not self.objects:
            return np.array(contributions, np.float64).reshape(len(contributions), -1)
        rows = np.empty(len(contributions), object)
        rows[:] = contributions
        return rows


@dataclass(frozen=True)
class ScoreOptions:
    """Options of the scores.

    output         name of the evaluated output; None for the first
    class_axis     class axis of the output; None for the default of the kind
    decoder        module:function that decodes outputs into boxes or text, or the name of a detector layout
    charset        file with one character per line, to decode CTC outputs
    ignore_spaces  whether texts are compared without spaces
    pool           pooling of token embeddings: "mean", "first" or "none"
    ids, mask      names of the inputs with token ids and with the attention mask
    labels         file of the labels; paths in it are relative to its folder
    """

    output: str | None = None
    class_axis: int | None = None
    decoder: str | None = None
    charset: Path | None = None
    ignore_spaces: bool = False
    pool: str = "mean"
    ids: str = "input_ids"
    mask: str = "attention_mask"
    labels: Path | None = None


@dataclass(frozen=True)
class ScoreKind:
    """A value of `--metric`: its scores and its requirements.

    scores        makes scores that compare outputs with labels; gates use the first
    agreement     makes scores that compare outputs with the float model's and need no labels, or None
    needs_labels  whether samples must have labels
    class_axis    default axis of class scores in the output; None if the output holds no class decision
    pairs         whether two successive samples form one pair
    percent       names of the scores that reports show in percent
    hundredths    names of the scores that reports show as they are, while their drop counts in hundredths
    all_inputs    whether the scores read any input of the model, not only ids and mask
    """

    scores: Callable[[ScoreOptions], list[Score]]
    agreement: Callable[[ScoreOptions], list[Score]] | None = None
    needs_labels: bool = True
    class_axis: int | None = None
    pairs: bool = False
    percent: tuple[str, ...] = ()
    hundredths: tuple[str, ...] = ()
    all_inputs: bool = False


def pick(case: Case, options: ScoreOptions) -> Array:
    """Return the evaluated output."""
    if options.output is None:
        return np.asarray(next(iter(case.outputs.values())))
    return np.asarray(case.outputs[options.output])


def numbers(case: Case) -> Array:
    """Parse a label of numbers separated by spaces.

    Raises:
        DataError: The label is not a list of numbers.
    """
    try:
        return np.array((case.label or "").split(), np.float64)
    except ValueError as error:
        raise DataError(
            f"sample {case.name}: label {case.label!r} is not a number: correct the labels or choose "
            "another --metric"
        ) from error


def mean(rows: Array) -> float:
    """Average contributions of length one."""
    return float(rows.mean())
