"""Top-1 and top-5: the output has a score for each class along one axis."""

import numpy as np

from onnxq.errors import DataError
from onnxq.evaluation.scores.score import Case, Score, ScoreOptions, mean, pick
from onnxq.types import Array


def classification(options: ScoreOptions) -> list[Score]:
    """Hits among the best and the best five; labels are class numbers."""
    axis = -1 if options.class_axis is None else options.class_axis

    def hits(k: int) -> Score:
        return Score(f"top-{k}", lambda case: _hit(case, pick(case, options), axis, k), mean)

    return [hits(1), hits(5)]


def class_of(case: Case) -> int | None:
    """The label as a class number.

    Raises:
        DataError: it is something else.
    """
    if not case.label:
        return None
    try:
        return int(case.label)
    except ValueError as error:
        raise DataError(
            f"sample {case.name}: label {case.label!r} is no class number: check the labels, or the --metric"
        ) from error


def _hit(case: Case, output: Array, axis: int, k: int) -> list[float] | None:
    label = class_of(case)
    if label is None:
        return None
    if not is_classes(output, axis):
        raise DataError("the output has no axis of classes: name another with --output, or another --metric")
    scores = np.moveaxis(output, axis, -1).reshape(-1, output.shape[axis])
    if len(scores) != 1:
        raise DataError(
            f"the output decides {len(scores)} times a sample, a label is one class: name another --output or --metric"
        )
    best = scores.argmax(1) if k == 1 else np.argsort(-scores[0], kind="stable")[:k]
    return [float(label in best)]


def is_classes(output: Array, axis: int) -> bool:
    """Whether an output has scores along an axis.

    Raises:
        DataError: it has no such axis.
    """
    if not isinstance(output, np.ndarray) or output.dtype.kind != "f" or output.ndim == 0:
        return False
    if not -output.ndim <= axis < output.ndim:
        raise DataError(
            f"--class-axis {axis}: the output has {output.ndim} axes: name another axis, or another output with --output"
        )
    return bool(output.shape[axis] > 1)
