"""Decoders of common detector outputs into boxes, scores and classes.

Shapes and values of the outputs tell layouts apart, never names. `--decoder NAME` sets the layout, and
`--decoder module:function` a decoder of the user. Boxes are (left, top, right, bottom) relative to the image
size, 0..1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxq.errors import DataError
from onnxq.evaluation.scores.score import Case
from onnxq.types import Array

MIN_SCORE, MAX_IOU, MAX_BOXES = 0.25, 0.45, 300
"""Least score of a box, IoU limit of non-maximum suppression, and most boxes per image."""
MOSTLY = 0.95
"""Share of the boxes that must have corners in order for outputs to count as boxes."""
STRIDES = (8, 16, 32, 64)
"""Pixels per grid cell of the feature maps."""


@dataclass(frozen=True)
class Boxes:
    """Boxes [n, 4] relative to the image size, scores [n] and classes [n]."""

    boxes: Array
    scores: Array
    classes: Array


Reader = Callable[[Sequence[Array], tuple[int, int]], Boxes]
"""Function of the outputs and of the image's (height, width) in pixels."""


def read_boxes(case: Case, layout: str | None = None) -> Boxes:
    """Decode the boxes of one sample.

    Raises:
        DataError: The layout of the outputs is unknown.
    """
    outputs, size = _tables(case), _image_size(case)
    name = layout or guess_layout(outputs, size)
    if name is None or name not in LAYOUTS:
        shapes = ", ".join(f"{key} {list(np.shape(value))}" for key, value in case.outputs.items())
        raise DataError(
            f"the outputs ({shapes}) have an unknown detector layout: choose one with --decoder "
            f"({', '.join(LAYOUTS)}), or give --decoder module:function"
        )
    try:
        found = LAYOUTS[name](outputs, size)
    except (ValueError, IndexError, StopIteration) as error:
        shapes = ", ".join(f"{key} {list(np.shape(value))}" for key, value in case.outputs.items())
        raise DataError(
            f"the outputs ({shapes}) do not fit --decoder {name}: choose another decoder"
        ) from error
    return _select_boxes(found, suppress=name not in SELECTED_IN_GRAPH)


def _tables(case: Case) -> list[Array]:
    """Return the outputs that hold numbers."""
    return [
        np.asarray(value)
        for value in case.outputs.values()
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiu"
    ]


def certain_layout(case: Case) -> str | None:
    """Return the layout of outputs that are surely a detector's: `guess_layout` takes any table for one.

    The number of rows is that of the cells of the image's grids, or the values are boxes and scores.
    """
    try:
        outputs, size = _tables(case), _image_size(case)
        name = guess_layout(outputs, size)
        return name if name is not None and _is_certain(name, outputs, size) else None
    except (DataError, ValueError, IndexError, StopIteration):  # no image, or outputs of another form
        return None


def _is_certain(name: str, outputs: Sequence[Array], size: tuple[int, int]) -> bool:
    cells, table = _cells(size), next(array for array in outputs if array.ndim >= 2)
    match name:
        case "yolov8":
            return table.shape[2] in cells
        case "yolov5":
            return table.shape[1] in [times * count for count in cells for times in (1, 3)]
        case "end2end" | "boxes" | "queries":
            return _plausible(LAYOUTS[name](outputs, size))
    return True  # the others are guessed by the grids alone


def _plausible(found: Boxes) -> bool:
    """Whether values are boxes with corners in order, and scores between 0 and 1."""
    count = len(found.boxes)
    widths, scores = found.boxes[:, 2:] - found.boxes[:, :2], found.scores
    if count == 0 or len(scores) != count or scores.min() < 0 or scores.max() > 1:
        return False
    return int((widths.min(axis=1) >= 0).sum()) > MOSTLY * count


def guess_layout(outputs: Sequence[Array], size: tuple[int, int]) -> str | None:
    """Guess the layout from shapes and values of the outputs; None if unknown."""
    tables = [array for array in outputs if array.ndim >= 2]
    widths = [array.shape[-1] for array in tables]
    if len(tables) == 1 or (len(tables) == 2 and tables[1].ndim == 4 and tables[0].ndim == 3):
        return _single(tables[0], size)
    if len(tables) >= 6 and widths.count(4) >= 2 and _by_stride(tables, size):
        return "yunet" if widths.count(1) == 2 * widths.count(4) else "strides"
    boxes = _box_table(tables)
    if len(outputs) >= 2 and boxes is not None:
        if boxes.ndim == 3 and any(
            array.ndim == 3 and array.shape[:2] == boxes.shape[:2] and array is not boxes for array in tables
        ):
            scores = next(
                array
                for array in tables
                if array is not boxes and array.ndim == 3 and array.shape[:2] == boxes.shape[:2]
            )
            return "queries" if scores.min(initial=0) < 0 or scores.max(initial=0) > 1 else "boxes"
        return "boxes"
    return None


def _box_table(outputs: Sequence[Array]) -> Array | None:
    """Find the output with four columns; of several, one without negative values (not logits)."""
    found = [array for array in outputs if array.ndim >= 2 and array.shape[-1] == 4]
    return min(found, key=lambda array: array.min(initial=0) < 0, default=None)


def _single(table: Array, size: tuple[int, int]) -> str | None:
    if table.ndim == 2 and table.shape[1] == 7:
        return "end2end"
    if (
        table.ndim in (2, 3)
        and table.shape[-1] == 6
        and not (table.ndim == 3 and table.shape[1] in _cells(size))
    ):
        return "end2end"
    if table.ndim != 3 or min(table.shape[1:]) < 5:
        return None
    if table.shape[1] < table.shape[2]:
        return "yolov8"
    return "yolox" if table.shape[1] in _cells(size) else "yolov5"


def _cells(size: tuple[int, int]) -> list[int]:
    """Count the cells of all grids, for three and for four strides."""
    return [
        sum(math.prod(-(-side // stride) for side in size) for stride in STRIDES[:count]) for count in (3, 4)
    ]


def _yolov8(outputs: Sequence[Array], size: tuple[int, int]) -> Boxes:
    """Decode [1, 4 + classes + others, cells] (YOLOv8, 9, 11).

    Rows are centre, size, class scores, then mask coefficients or key points.
    """
    table = outputs[0][0].T if outputs[0].shape[1] < outputs[0].shape[2] else outputs[0][0]
    masks = next((array.shape[1] for array in outputs[1:] if array.ndim == 4), 0)
    rest = table[:, 4 : table.shape[1] - masks]
    shares = (rest.min(0, initial=0) >= 0) & (rest.max(0, initial=0) <= 1)
    count = len(shares) if shares.all() else max(1, int(np.argmin(shares)))
    return _best_class(_corners(table[:, :4]), rest[:, :count], size)


def _yolov5(outputs: Sequence[Array], size: tuple[int, int]) -> Boxes:
    """Decode [1, cells, 5 + classes]: centre, size, objectness, class scores (YOLOv5, 7)."""
    table = outputs[0][0]
    return _best_class(
        _corners(table[:, :4]), table[:, 4:5] * (table[:, 5:] if table.shape[1] > 5 else 1.0), size
    )


def _yolox(outputs: Sequence[Array], size: tuple[int, int]) -> Boxes:
    """Decode [1, cells, 5 + classes] with offsets in grid cells and log sizes (YOLOX)."""
    table = outputs[0][0]
    count = _cells(size).index(len(table)) + 3
    grids = [_grid(size, stride) for stride in STRIDES[:count]]
    at = np.concatenate(grids)
    steps = np.concatenate(
        [np.full(len(grid), stride) for grid, stride in zip(grids, STRIDES, strict=False)]
    )[:, None]
    boxes = np.hstack([(table[:, :2] + at) * steps, np.exp(np.minimum(table[:, 2:4], 20)) * steps])
    return _best_class(_corners(boxes), table[:, 4:5] * table[:, 5:], size)


def _end2end(outputs: Sequence[Array], size: tuple[int, int]) -> Boxes:
    """Decode [..., 6]: corners, score, class (YOLOv10); [n, 7]: image, corners, class, score (YOLOv7)."""
    table = outputs[0].reshape(-1, outputs[0].shape[-1])
    if table.shape[1] == 7:
        table = table[:, [1, 2, 3, 4, 6, 5]]
    return Boxes(_relative(table[:, :4], size), table[:, 4], table[:, 5].astype(int))


def _boxes(outputs: Sequence[Array], size: tuple[int, int]) -> Boxes:
    """Decode corners [.., n, 4] with scores [.., n] or [.., n, classes] and perhaps classes [.., n].

    SSD, RetinaNet and models with non-maximum suppression in the graph have this layout.
    """
    table = _box_table(outputs)
    if table is None:
        raise ValueError("no boxes")
    boxes, count = table.reshape(-1, 4), table.size // 4
    others = [array for array in outputs if array is not table and array.size]
    tables = [
        array
        for array in others
        if array.size > count and array.size % max(count, 1) == 0 and array.dtype.kind == "f" and count
    ]
    if tables and tables[0].ndim == 3:
        return _best_class(boxes, tables[0][0] if tables[0].shape[1] == count else tables[0][0].T, size)
    rows = [array.ravel() for array in others if array.size == count]
    whole = [array for array in rows if array.dtype.kind in "iu" or np.array_equal(array, np.rint(array))]
    scores = next(
        (array for array in rows if not any(array is each for each in whole)),
        rows[0] if rows else np.zeros(0),
    )
    labels = next((array for array in whole if array is not scores), np.zeros(count))
    return Boxes(_relative(boxes, size), scores[:count], labels.astype(int)[:count])


def _queries(outputs: Sequence[Array], _: tuple[int, int]) -> Boxes:
    """Decode relative centres and sizes [1, n, 4] with logits [1, n, classes] (DETR).

    If the last class dominates, it is the background class of a softmax.
    """
    table = _box_table(outputs)
    if table is None:
        raise ValueError("no boxes")
    boxes = table.reshape(-1, 4)
    logits = next(
        array for array in outputs if array is not table and array.ndim == 3 and array.shape[1] == len(boxes)
    )[0].astype(float)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    shares = shifted / shifted.sum(1, keepdims=True)
    background = shares[:, -1] > 0.5
    scores = shares[:, :-1] if background.mean() > 0.5 else 1 / (1 + np.exp(-logits))
    return _best_class(_corners(boxes), scores, (1, 1))


def _strides(outputs: Sequence[Array], size: tuple[int, int]) -> Boxes:
    """Decode per stride: scores [.., n, classes] and distances to the sides [.., n, 4] (SCRFD, FCOS).

    Distances are in units of the stride.
    """
    found = []
    for stride, (scores, *_, boxes) in _by_stride(outputs, size):
        each = len(boxes) // len(_grid(size, stride))
        at = np.repeat(_grid(size, stride), each, 0) * stride
        distances = boxes * stride
        found.append((np.hstack([at - distances[:, :2], at + distances[:, 2:]]), scores))
    return _best_class(
        np.vstack([boxes for boxes, _ in found]), np.vstack([scores for _, scores in found]), size
    )


def _yunet(outputs: Sequence[Array], size: tuple[int, int]) -> Boxes:
    """Decode per stride: class and object scores [1, n, 1], offsets and log sizes [1, n, 4] (YuNet)."""
    found = []
    for stride, (cls, obj, boxes) in _by_stride(outputs, size):
        at = _grid(size, stride)
        both = np.hstack([(at + boxes[:, :2]) * stride, np.exp(np.minimum(boxes[:, 2:4], 20)) * stride])
        found.append((_corners(both), np.sqrt(np.clip(cls, 0, 1) * np.clip(obj, 0, 1))))
    return _best_class(
        np.vstack([boxes for boxes, _ in found]), np.vstack([scores for _, scores in found]), size
    )


LAYOUTS: dict[str, Reader] = {
    "yolov8": _yolov8,
    "yolov5": _yolov5,
    "yolox": _yolox,
    "end2end": _end2end,
    "boxes": _boxes,
    "queries": _queries,
    "strides": _strides,
    "yunet": _yunet,
}
SELECTED_IN_GRAPH = frozenset({"end2end", "queries"})
"""Layouts without duplicate boxes, which skip non-maximum suppression."""


def _by_stride(outputs: Sequence[Array], size: tuple[int, int]) -> list[tuple[int, list[Array]]]:
    """Group outputs by stride: one or two score tables, then boxes; empty if they form no grids."""
    found = []
    for stride in STRIDES:
        cells = len(_grid(size, stride))
        rows = [array.reshape(-1, array.shape[-1]) for array in outputs if array.ndim >= 2]
        here = [array for array in rows if len(array) in (cells, 2 * cells)]
        boxes, scores = (
            [array for array in here if array.shape[1] == 4],
            [array for array in here if array.shape[1] == 1],
        )
        if len(boxes) == 1 and scores:
            found.append((stride, [*scores, boxes[0]]))
    return found if sum(len(parts) for _, parts in found) >= 4 else []


def _grid(size: tuple[int, int], stride: int) -> Array:
    """List (x, y) of each cell, row by row."""
    height, width = (-(-side // stride) for side in size)
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2)


def _corners(boxes: Array) -> Array:
    return np.hstack([boxes[:, :2] - boxes[:, 2:4] / 2, boxes[:, :2] + boxes[:, 2:4] / 2])


def _relative(boxes: Array, size: tuple[int, int]) -> Array:
    """Divide pixel coordinates by the image size; keep relative ones (all at most 2)."""
    if np.abs(boxes).max(initial=0) <= 2.0:
        return np.asarray(boxes, float)
    height, width = size
    return np.asarray(boxes / np.array([width, height, width, height]), float)


def _best_class(boxes: Array, scores: Array, size: tuple[int, int]) -> Boxes:
    """Keep the best class of each box."""
    return Boxes(_relative(boxes, size), np.asarray(scores.max(1), float), scores.argmax(1))


def _select_boxes(found: Boxes, *, suppress: bool) -> Boxes:
    """Apply the score threshold, and non-maximum suppression per class if `suppress`."""
    finite = np.isfinite(found.boxes).all(1) & np.isfinite(found.scores)
    at = np.flatnonzero(finite & (found.scores >= MIN_SCORE))
    at = at[np.argsort(-found.scores[at], kind="stable")][: 10 * MAX_BOXES]
    chosen: list[int] = []
    while len(at) and len(chosen) < MAX_BOXES:
        chosen.append(int(at[0]))
        rest = at[1:]
        if suppress and len(rest):
            same = found.classes[rest] == found.classes[at[0]]
            rest = rest[~(same & (overlaps(found.boxes[at[:1]], found.boxes[rest])[0] > MAX_IOU))]
        at = rest
    return Boxes(found.boxes[chosen], found.scores[chosen], found.classes[chosen])


def overlaps(one: Array, other: Array) -> Array:
    """Compute the intersection over union of all pairs of boxes, [n, m]."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:4], other[None, :, 2:4])
    both = np.prod(np.clip(high - low, 0, None), 2)
    areas = [np.prod(boxes[:, 2:4] - boxes[:, :2], 1) for boxes in (one, other)]
    return np.asarray(both / (areas[0][:, None] + areas[1][None] - both + 1e-9))


def _image_size(case: Case) -> tuple[int, int]:
    """Return (height, width) of the input image in pixels.

    Raises:
        DataError: No input is an image.
    """
    for array in case.feeds.values():
        if array.ndim == 4:
            _, *sizes = array.shape
            return (
                (sizes[0], sizes[1])
                if sizes[2] in (1, 3, 4) and sizes[0] not in (1, 3, 4)
                else (sizes[1], sizes[2])
            )
    raise DataError(
        "--metric detection needs an image input, [batch, channels, height, width] or channels last: "
        "choose another --metric"
    )
