"""What every score is made of: a contribution a sample, and the value of many contributions."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxq.errors import DataError
from onnxq.types import Array, Feeds


@dataclass(frozen=True)
class Case:
    """One sample with what a model gave for it.

    feeds, outputs  by name
    label           as it was written
    expected        what the float model gave for it; None for the float model itself
    """

    name: str
    feeds: Feeds
    outputs: dict[str, Array]
    label: str | None
    expected: dict[str, Array] | None = None

    def of_float(self) -> "Case":
        """The same sample with the float model's outputs."""
        return self if self.expected is None else Case(self.name, self.feeds, self.expected, self.label)


@dataclass(frozen=True)
class Score:
    """One number about a model, with what is needed to tell how sure it is.

    name          as shown
    contribution  what one sample adds: a vector of fixed length, any object, or None where the sample does not count
    total         the value of contributions [samples, length] (of an object array, where they are objects)
    higher        whether more is better
    share         whether the value is a share or a correlation, gated in points (hundredths), else in its own unit
    objects       whether contributions are objects
    """

    name: str
    contribution: Callable[[Case], object | None]
    total: Callable[[Array], float]
    higher: bool = True
    share: bool = True
    objects: bool = False

    def rows(self, contributions: list[object]) -> Array:
        """Contributions as `total` takes them."""
        if not self.objects:
            return np.array(contributions, np.float64).reshape(len(contributions), -1)
        rows = np.empty(len(contributions), object)
        rows[:] = contributions
        return rows


@dataclass(frozen=True)
class ScoreOptions:
    """What a kind of score may need to know.

    output         the output that counts; None for the first
    class_axis     its axis of classes; None for the kind's own
    decoder        module:function that makes boxes or a text of the outputs
    charset        file with one character a line, for reading CTC outputs
    ignore_spaces  texts are compared without spaces
    pool           how token embeddings become one: "mean", "first" or "none"
    ids, mask      the inputs with token numbers and with 1 for each that is no filling
    labels         the file that labels came from: paths in it are relative to its folder
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


def pick(case: Case, options: ScoreOptions) -> Array:
    """The output that counts."""
    if options.output is None:
        return np.asarray(next(iter(case.outputs.values())))
    return np.asarray(case.outputs[options.output])


def numbers(case: Case) -> Array:
    """A label of numbers, separated by spaces.

    Raises:
        DataError: it is something else.
    """
    try:
        return np.array((case.label or "").split(), np.float64)
    except ValueError as error:
        raise DataError(
            f"sample {case.name}: label {case.label!r} is no number: check the labels, or the --metric"
        ) from error


def mean(rows: Array) -> float:
    """The mean of single contributions."""
    return float(rows.mean())
