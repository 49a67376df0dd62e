"""Detection: average precision over recall, as COCO counts it (101 recall levels, IoU .5 and .5 to .95), and agreement with float."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxq.data.python_functions import REFERENCE, import_function
from onnxq.errors import DataError, first_line
from onnxq.evaluation.scores.detector_heads import LAYOUTS, Boxes, overlaps, read_boxes
from onnxq.evaluation.scores.score import Case, Score, ScoreOptions
from onnxq.types import Array

THRESHOLDS = np.linspace(0.5, 0.95, 10)
LEVELS = np.linspace(0, 1, 101)
Decoder = Callable[[Case], Boxes]


@dataclass(frozen=True)
class Found:
    """One image: its boxes' score, class and whether they hit at each threshold, [boxes, 2 + thresholds]; true boxes' classes."""

    boxes: Array
    wanted: Array


def detection(options: ScoreOptions) -> list[Score]:
    """AP50 and mAP; a label is "class cx cy width height" a box in parts of the image, joined by ";".

    The decoder takes the outputs by name and gives boxes [n, 4] (left, top, right, bottom in parts of the image),
    scores [n] and classes [n], overlapping ones removed; or it is the name of a layout, by default the one that fits.
    """
    decoder = _decoder(options.decoder)
    last: list[tuple[Case, Found | None]] = []

    def contribution(case: Case) -> Found | None:
        if not last or last[0][0] is not case:  # both scores count the same boxes
            last[:] = [(case, None if case.label is None else _found(case, decoder(case)))]
        return last[0][1]

    return [
        Score("AP50", contribution, lambda rows: average_precision(rows, THRESHOLDS[:1]), objects=True),
        Score("mAP", contribution, lambda rows: average_precision(rows, THRESHOLDS), objects=True),
    ]


def same_boxes(options: ScoreOptions) -> list[Score]:
    """F1 of a model's boxes against the float model's: of the same class, and overlapping by half or more."""
    decoder = _decoder(options.decoder)

    def contribution(case: Case) -> list[float]:
        found, wanted = decoder(case), decoder(case.of_float())
        hits = 0.0
        for cls in np.unique(found.classes):
            mine = np.flatnonzero(found.classes == cls)
            mine = mine[np.argsort(-found.scores[mine], kind="stable")]
            hits += float(_hits(found.boxes[mine], wanted.boxes[wanted.classes == cls])[:, 0].sum())
        return [2 * hits, len(found.boxes) + len(wanted.boxes)]

    return [
        Score(
            "box F1",
            contribution,
            lambda rows: float(rows[:, 0].sum() / rows[:, 1].sum()) if rows[:, 1].sum() else 1.0,
        )
    ]


def _decoder(name: str | None) -> Decoder:
    """A layout by its name, the user's function, or the layout that fits.

    Raises:
        DataError: it is none of them.
    """
    if name is None or name in LAYOUTS:
        return lambda case: read_boxes(case, name)
    if not REFERENCE.fullmatch(name):
        raise DataError(f"--decoder {name}: choose one of {', '.join(LAYOUTS)}, or module:function")
    function = import_function(name)

    def decode(case: Case) -> Boxes:
        try:
            boxes, scores, classes = function(case.outputs)
            table = Boxes(
                np.asarray(boxes, np.float64).reshape(-1, 4),
                np.asarray(scores, np.float64),
                np.asarray(classes),
            )
            np.column_stack([table.boxes, table.scores, table.classes])  # as many of each
        except Exception as error:  # whatever the user's function raises
            raise DataError(
                f"sample {case.name}: {name} fails: {type(error).__name__}: {first_line(error)}"
            ) from error
        return table

    return decode


def _found(case: Case, found: Boxes) -> Found:
    table = np.column_stack([found.scores, found.classes])
    truth = _boxes(case)
    order = np.argsort(-found.scores, kind="stable")
    hits = np.zeros((len(found.boxes), len(THRESHOLDS)))
    for cls in np.unique(found.classes):
        mine = order[found.classes[order] == cls]
        hits[mine] = _hits(found.boxes[mine], truth[truth[:, 4] == cls, :4])
    return Found(np.hstack([table, hits])[order], truth[:, 4])


def _boxes(case: Case) -> Array:
    """Rows (left, top, right, bottom, class) of a label."""
    try:
        rows = [
            [float(value) for value in box.split()] for box in (case.label or "").split(";") if box.strip()
        ]
        cls, x, y, w, h = np.array(rows, np.float64).reshape(-1, 5).T
    except ValueError as error:
        raise DataError(
            f"sample {case.name}: label {case.label!r}: expected 'class cx cy width height' a box, joined by ';'"
        ) from error
    return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2, cls], 1)


def _hits(boxes: Array, truth: Array) -> Array:
    """Whether each box, best first, meets a true box that none before it met; [boxes, thresholds]."""
    hits = np.zeros((len(boxes), len(THRESHOLDS)))
    if not len(truth):
        return hits
    shared = overlaps(boxes, truth)
    for column, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(len(truth), bool)
        for row, overlap in enumerate(shared):
            free = np.where(taken, 0, overlap)
            if free.max() >= threshold:
                hits[row, column] = taken[free.argmax()] = True
    return hits


def average_precision(rows: Array, thresholds: Array) -> float:
    """Mean over thresholds and over the classes that have true boxes."""
    boxes = np.vstack([row.boxes for row in rows])
    wanted = np.concatenate([row.wanted for row in rows])
    boxes = boxes[np.argsort(-boxes[:, 0], kind="stable")]
    values = [
        _class_precision(boxes[boxes[:, 1] == cls, 2 : 2 + len(thresholds)], int(np.sum(wanted == cls)))
        for cls in np.unique(wanted)
    ]
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
