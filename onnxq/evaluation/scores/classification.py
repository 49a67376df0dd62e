"""Top-1 and top-5 accuracy of outputs with one score per class along an axis."""

import numpy as np

from onnxq.errors import DataError
from onnxq.evaluation.scores.score import Case, Score, ScoreOptions, mean, pick
from onnxq.types import Array


def classification(options: ScoreOptions) -> list[Score]:
    """Make top-1 and top-5 accuracy; labels are class indices."""
    axis = -1 if options.class_axis is None else options.class_axis

    def hits(k: int) -> Score:
        return Score(f"top-{k}", lambda case: _hit(case, pick(case, options), axis, k), mean)

    return [hits(1), hits(5)]


def class_of(case: Case) -> int | None:
    """Parse the label of a sample as a class index; None without a label.

    Raises:
        DataError: The label is not an integer.
    """
    if not case.label:
        return None
    try:
        return int(case.label)
    except ValueError as error:
        raise DataError(
            f"sample {case.name}: label {case.label!r} is not a class index: correct the labels or choose "
            "another --metric"
        ) from error


def _hit(case: Case, output: Array, axis: int, k: int) -> list[float] | None:
    label = class_of(case)
    if label is None:
        return None
    if not is_classes(output, axis):
        raise DataError("the output has no class axis: choose another --output or another --metric")
    scores = np.moveaxis(output, axis, -1).reshape(-1, output.shape[axis])
    if len(scores) != 1:
        raise DataError(
            f"the output has {len(scores)} decisions per sample, but a label is one class: choose another "
            "--output or --metric"
        )
    best = scores.argmax(1) if k == 1 else np.argsort(-scores[0], kind="stable")[:k]
    return [float(label in best)]


def is_classes(output: Array, axis: int) -> bool:
    """Tell whether an output has scores of several classes along an axis.

    Raises:
        DataError: The output has no such axis.
    """
    if not isinstance(output, np.ndarray) or output.dtype.kind != "f" or output.ndim == 0:
        return False
    if not -output.ndim <= axis < output.ndim:
        raise DataError(
            f"--class-axis {axis}: the output has {output.ndim} axes: choose another --class-axis or "
            "another --output"
        )
    return bool(output.shape[axis] > 1)
