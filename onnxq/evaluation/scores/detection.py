"""Detection: average precision as in COCO (101 recall levels, IoU .5 to .95), agreement with float."""

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
class ImageResult:
    """Matched detections of one image.

    boxes   [boxes, 2 + thresholds]: score, class, and 1 per IoU threshold where the box matches a true one
    wanted  classes of the true boxes
    """

    boxes: Array
    wanted: Array


def detection(options: ScoreOptions) -> list[Score]:
    """Make AP50 and mAP; a label has "class cx cy width height" per box, joined by ";".

    Coordinates are relative to the image size, 0..1. The decoder is the name of a layout (None guesses it) or
    module:function. The function takes outputs by name and returns boxes [n, 4] (left, top, right, bottom),
    scores [n] and classes [n] after non-maximum suppression.
    """
    decoder = _decoder(options.decoder)
    last: list[tuple[Case, ImageResult | None]] = []

    def contribution(case: Case) -> ImageResult | None:
        if not last or last[0][0] is not case:  # both scores use the same boxes
            last[:] = [(case, None if case.label is None else _match(case, decoder(case)))]
        return last[0][1]

    return [
        Score("AP50", contribution, lambda rows: average_precision(rows, THRESHOLDS[:1]), objects=True),
        Score("mAP", contribution, lambda rows: average_precision(rows, THRESHOLDS), objects=True),
    ]


def box_agreement(options: ScoreOptions) -> list[Score]:
    """Make F1 of a model's boxes against the float model's: same class, IoU at least .5."""
    decoder = _decoder(options.decoder)

    def contribution(case: Case) -> list[float]:
        found, wanted = decoder(case), decoder(case.of_float())
        return [2 * matches(found, wanted), len(found.boxes) + len(wanted.boxes)]

    return [
        Score(
            "box F1",
            contribution,
            lambda rows: float(rows[:, 0].sum() / rows[:, 1].sum()) if rows[:, 1].sum() else 1.0,
        )
    ]


def matches(found: Boxes, wanted: Boxes) -> float:
    """Count the boxes that match one of the wanted ones: same class, IoU at least .5, each taken once."""
    count = 0.0
    for cls in np.unique(found.classes):
        mine = np.flatnonzero(found.classes == cls)
        mine = mine[np.argsort(-found.scores[mine], kind="stable")]
        count += float(_hits(found.boxes[mine], wanted.boxes[wanted.classes == cls])[:, 0].sum())
    return count


def _decoder(name: str | None) -> Decoder:
    """Return the reader of a layout, of the layout that fits (None), or the user's function.

    Raises:
        DataError: The name is neither a layout nor module:function.
    """
    if name is None or name in LAYOUTS:
        return lambda case: read_boxes(case, name)
    if not REFERENCE.fullmatch(name):
        raise DataError(
            f"--decoder {name}: unknown layout: choose one of {', '.join(LAYOUTS)}, or module:function"
        )
    function = import_function(name)

    def decode(case: Case) -> Boxes:
        try:
            boxes, scores, classes = function(case.outputs)
            table = Boxes(
                np.asarray(boxes, np.float64).reshape(-1, 4),
                np.asarray(scores, np.float64),
                np.asarray(classes),
            )
            np.column_stack([table.boxes, table.scores, table.classes])  # raises if the lengths differ
        except (Exception, SystemExit) as error:  # the user's function may raise anything
            raise DataError(
                f"sample {case.name}: {name} raised {type(error).__name__}: {first_line(error)}"
            ) from error
        return table

    return decode


def _match(case: Case, found: Boxes) -> ImageResult:
    """Match the boxes of an image with its true boxes, class by class."""
    table = np.column_stack([found.scores, found.classes])
    truth = _boxes(case)
    order = np.argsort(-found.scores, kind="stable")
    hits = np.zeros((len(found.boxes), len(THRESHOLDS)))
    for cls in np.unique(found.classes):
        mine = order[found.classes[order] == cls]
        hits[mine] = _hits(found.boxes[mine], truth[truth[:, 4] == cls, :4])
    return ImageResult(np.hstack([table, hits])[order], truth[:, 4])


def _boxes(case: Case) -> Array:
    """Parse a label into rows (left, top, right, bottom, class)."""
    try:
        rows = [
            [float(value) for value in box.split()] for box in (case.label or "").split(";") if box.strip()
        ]
        cls, x, y, w, h = np.array(rows, np.float64).reshape(-1, 5).T
    except ValueError as error:
        raise DataError(
            f"sample {case.name}: label {case.label!r} is not a list of boxes: write "
            "'class cx cy width height' per box, joined by ';'"
        ) from error
    return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2, cls], 1)


def _hits(boxes: Array, truth: Array) -> Array:
    """Match boxes, best first, each with a true box not matched before; [boxes, thresholds]."""
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
    """Average precision over thresholds and over the classes with true boxes."""
    boxes = np.vstack([row.boxes for row in rows])
    wanted = np.concatenate([row.wanted for row in rows])
    boxes = boxes[np.argsort(-boxes[:, 0], kind="stable")]
    values = [
        _class_precision(boxes[boxes[:, 1] == cls, 2 : 2 + len(thresholds)], int(np.sum(wanted == cls)))
        for cls in np.unique(wanted)
    ]
    return float(np.mean(values)) if values else 0.0


def _class_precision(hits: Array, wanted: int) -> float:
    """Compute AP of one class from its matches [boxes, thresholds], best box first.

    The precision at a recall level is the best one at that level or beyond.
    """
    if not len(hits):
        return 0.0
    true = np.cumsum(hits, 0)
    precision = np.maximum.accumulate((true / np.arange(1, len(hits) + 1)[:, None])[::-1])[::-1]
    precision = np.vstack([precision, np.zeros(hits.shape[1])])
    at = [np.searchsorted(true[:, column] / wanted, LEVELS) for column in range(hits.shape[1])]
    return float(np.mean([precision[rows, column] for column, rows in enumerate(at)]))
