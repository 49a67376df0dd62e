"""The axis of an output along which the largest value decides, where no metric and no option says it."""

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from onnxq.comparison.feedback import evenly
from onnxq.comparison.taps import Tap
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds
from onnxq.runtime.sessions import InputSpec, run
from onnxq.types import Array

EXAMINED = 8
"""Samples of which an output is looked at."""
UNIT = 1e-3
"""Largest difference from 1 of the length of a normalized vector."""
LAST = -1


def find_class_axis(
    session: ort.InferenceSession,
    samples: Sequence[Sample],
    specs: list[InputSpec],
    taps: Sequence[Tap],
    output: str,
) -> int | None:
    """Return the axis in front of a Softmax or ArgMax, or the last one of rows; None without a decision.

    The largest of a sentence's embedding, of a detector's boxes or of an image's pixels says nothing. So rows
    count only if they are no normalized vectors, and other shapes only if the model decides along an axis.
    """
    index = [node.name for node in session.get_outputs()].index(output)
    tap = next((each for each in taps if each.output == index), None)
    if tap is not None and tap.axis is not None:
        return tap.axis
    few = [
        np.asarray(run(session, check_feeds(sample, specs), sample.name, [output])[0])
        for sample in evenly(samples, EXAMINED)
    ]
    rows = all(each.ndim == 2 and each.dtype.kind == "f" for each in few)
    return LAST if few and rows and not all(map(_normalized, few)) else None


def _normalized(rows: Array) -> bool:
    return bool(np.all(np.abs(np.linalg.norm(rows.astype(np.float64), axis=1) - 1) < UNIT))
