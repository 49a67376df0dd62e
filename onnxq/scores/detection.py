"""Detection: average precision over recall, as COCO counts it (101 recall levels, IoU .5 and .5 to .95)."""

from dataclasses import dataclass

import numpy as np

from onnxq.data.functions import import_function
from onnxq.errors import DataError, first_line
from onnxq.schemes import Array
from onnxq.scores.score import Case, Score, ScoreOptions

THRESHOLDS = np.linspace(0.5, 0.95, 10)
LEVELS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Found:
    """One image: its boxes' score, class and whether they hit at each threshold, [boxes, 2 + thresholds]; true boxes' classes."""

    boxes: Array
    wanted: Array


def detection(options: ScoreOptions) -> list[Score]:
    """AP50 and mAP; a label is "class cx cy width height" a box in parts of the image, joined by ";".

    The decoder takes the outputs by name and gives boxes [n, 4] (left, top, right, bottom in parts of the image),
    scores [n] and classes [n], overlapping ones removed.

    Raises:
        DataError: no decoder was named.
    """
    if options.decoder is None:
        raise DataError("--metric detection needs --decoder module:function that gives boxes, scores and classes of the outputs")
    decoder = import_function(options.decoder)
    last: list[tuple[Case, Found | None]] = []

    def contribution(case: Case) -> Found | None:
        if not last or last[0][0] is not case:  # both scores count the same boxes
            last[:] = [(case, None if case.label is None else _found(case, decoder, options.decoder or ""))]
        return last[0][1]

    return [
        Score("AP50", contribution, lambda rows: average_precision(rows, THRESHOLDS[:1]), objects=True),
        Score("mAP", contribution, lambda rows: average_precision(rows, THRESHOLDS), objects=True),
    ]


def _found(case: Case, decoder: object, name: str) -> Found:
    try:
        boxes, scores, classes = decoder(case.outputs)  # type: ignore[operator]
        boxes, scores, classes = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(scores, np.float64), np.asarray(classes)
        table = np.column_stack([scores, classes])
    except Exception as error:  # whatever the user's function raises
        raise DataError(f"sample {case.name}: {name} fails: {type(error).__name__}: {first_line(error)}") from error
    truth = _boxes(case)
    order = np.argsort(-scores, kind="stable")
    hits = np.zeros((len(boxes), len(THRESHOLDS)))
    for cls in np.unique(classes):
        mine = order[classes[order] == cls]
        hits[mine] = _hits(boxes[mine], truth[truth[:, 4] == cls, :4])
    return Found(np.hstack([table, hits])[order], truth[:, 4])


def _boxes(case: Case) -> Array:
    """Rows (left, top, right, bottom, class) of a label."""
    try:
        rows = [[float(value) for value in box.split()] for box in (case.label or "").split(";") if box.strip()]
        cls, x, y, w, h = np.array(rows, np.float64).reshape(-1, 5).T
    except ValueError as error:
        raise DataError(f"sample {case.name}: label {case.label!r}: expected 'class cx cy width height' a box, joined by ';'") from error
    return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2, cls], 1)


def _hits(boxes: Array, truth: Array) -> Array:
    """Whether each box, best first, meets a true box that none before it met; [boxes, thresholds]."""
    hits = np.zeros((len(boxes), len(THRESHOLDS)))
    if not len(truth):
        return hits
    overlaps = iou(boxes, truth)
    for column, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(len(truth), bool)
        for row, overlap in enumerate(overlaps):
            free = np.where(taken, 0, overlap)
            if free.max() >= threshold:
                hits[row, column] = taken[free.argmax()] = True
    return hits


def iou(one: Array, other: Array) -> Array:
    """Intersection over union of each box of one with each of the other, [n, m]."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:4], other[None, :, 2:4])
    both = np.prod(np.clip(high - low, 0, None), 2)
    areas = [np.prod(boxes[:, 2:4] - boxes[:, :2], 1) for boxes in (one, other)]
    return np.asarray(both / (areas[0][:, None] + areas[1][None] - both + 1e-9))


def average_precision(rows: Array, thresholds: Array) -> float:
    """Mean over thresholds and over the classes that have true boxes."""
    boxes = np.vstack([row.boxes for row in rows])
    wanted = np.concatenate([row.wanted for row in rows])
    boxes = boxes[np.argsort(-boxes[:, 0], kind="stable")]
    values = [_class_precision(boxes[boxes[:, 1] == cls, 2 : 2 + len(thresholds)], int(np.sum(wanted == cls))) for cls in np.unique(wanted)]
    return float(np.mean(values)) if values else 0.0


def _class_precision(hits: Array, wanted: int) -> float:
    """AP of one class from its hits, best box first, [boxes, thresholds]: best precision at or beyond each recall level."""
    if not len(hits):
        return 0.0
    true = np.cumsum(hits, 0)
    precision = np.maximum.accumulate((true / np.arange(1, len(hits) + 1)[:, None])[::-1])[::-1]
    precision = np.vstack([precision, np.zeros(hits.shape[1])])
    at = [np.searchsorted(true[:, column] / wanted, LEVELS) for column in range(hits.shape[1])]
    return float(np.mean([precision[rows, column] for column, rows in enumerate(at)]))
