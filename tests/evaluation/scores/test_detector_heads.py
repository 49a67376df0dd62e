"""Boxes read from what detectors' exporters write, by layouts that shapes and values tell apart."""

import numpy as np
import pytest

from onnxq.errors import DataError
from onnxq.evaluation.scores.detection import box_agreement
from onnxq.evaluation.scores.detector_heads import (
    LAYOUTS,
    STRIDES,
    certain_layout,
    guess_layout,
    overlaps,
    read_boxes,
)
from onnxq.evaluation.scores.score import Case, ScoreOptions

SIZE = 64
TRUE = np.array([[8.0, 16, 24, 48], [30, 4, 62, 36]])
"""Two boxes in pixels: left, top, right, bottom."""
CLASSES = [2, 0]
IMAGE = {"images": np.zeros((1, 3, SIZE, SIZE), np.float32)}
CENTRES = np.hstack([(TRUE[:, :2] + TRUE[:, 2:]) / 2, TRUE[:, 2:] - TRUE[:, :2]])
GRIDS = [(stride, -(-SIZE // stride)) for stride in STRIDES[:3]]
PLACES = sum(side * side for _, side in GRIDS)


def case(outputs, expected=None):
    named = {f"out{i}": np.asarray(array, np.float32) for i, array in enumerate(outputs)}
    return Case("a sample", IMAGE, named, None, expected)


def scores(count, rows=(5, 70), classes=3):
    """Low scores everywhere, high ones of two places."""
    table = np.full((count, classes), 0.01)
    for row, cls in zip(rows, CLASSES, strict=True):
        table[row, cls] = 0.9
    return table


def boxes_at(count, rows=(5, 70)):
    table = np.tile([10.0, 10, 4, 4], (count, 1))
    table[list(rows)] = CENTRES
    return table


def yolov8():
    return [np.hstack([boxes_at(PLACES * 2), scores(PLACES * 2)]).T[None]]


def yolov8_with_masks():
    rng = np.random.default_rng(0)
    table = np.hstack([boxes_at(PLACES * 2), scores(PLACES * 2), rng.normal(size=(PLACES * 2, 32))])
    return [table.T[None], rng.normal(size=(1, 32, 16, 16))]


def yolov8_with_points():
    points = np.random.default_rng(0).uniform(0, SIZE, (PLACES * 2, 51))
    return [np.hstack([boxes_at(PLACES * 2), scores(PLACES * 2), points]).T[None]]


def yolov5():
    count = 3 * PLACES
    return [
        np.hstack(
            [boxes_at(count), np.where(scores(count).max(1, keepdims=True) > 0.5, 0.95, 0.02), scores(count)]
        )[None]
    ]


def cells():
    at = [np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) for _, side in GRIDS]
    return np.concatenate(at), np.concatenate([np.full(side * side, stride) for stride, side in GRIDS])[
        :, None
    ]


def yolox():
    at, steps = cells()
    table = boxes_at(PLACES)
    relative = np.hstack([table[:, :2] / steps - at, np.log(table[:, 2:] / steps)])
    return [np.hstack([relative, np.full((PLACES, 1), 0.95), scores(PLACES)])[None]]


def end2end():
    rows = [[*box, score, cls] for box, score, cls in zip(TRUE, (0.9, 0.8), CLASSES, strict=True)]
    return [np.array(rows + [[0, 0, 1, 1, 0.01, 1]] * 98)[None]]


def end2end_of_seven():
    return [np.array([[0, *box, cls, 0.9] for box, cls in zip(TRUE, CLASSES, strict=True)])]


def separate():
    return [TRUE[None] / SIZE, np.array([[0.9, 0.8]]), np.array([CLASSES])]


def priors():
    count = 200
    corners = np.tile([0.1, 0.1, 0.2, 0.2], (count, 1))
    corners[[5, 70]] = TRUE / SIZE
    return [scores(count)[None], corners[None]]


def queries():
    logits = np.full((100, 4), -8.0)
    logits[:, 3] = 6
    for row, cls in zip((3, 50), CLASSES, strict=True):
        logits[row] = -8
        logits[row, cls] = 6
    table = np.tile([0.5, 0.5, 0.1, 0.1], (100, 1))
    table[[3, 50]] = CENTRES / SIZE
    return [logits[None], table[None]]


def by_stride(number_of_scores):
    at, steps = cells()
    rows = (5, 70)
    found = np.full((PLACES, 1), 0.01)
    found[list(rows)] = 0.9
    if number_of_scores == 2:
        table = boxes_at(PLACES)
        boxes = np.hstack([table[:, :2] / steps - at, np.log(table[:, 2:] / steps)])
    else:
        corners = np.tile([10.0, 10, 14, 14], (PLACES, 1))
        corners[list(rows)] = TRUE
        boxes = np.hstack([at * steps - corners[:, :2], corners[:, 2:] - at * steps]) / steps
    ends = np.cumsum([side * side for _, side in GRIDS])[:-1]
    tables = [found] * number_of_scores + [boxes, np.zeros((PLACES, 10))]
    return [part[None] for table in tables for part in np.split(table, ends)]


MADE = {
    "yolov8": [yolov8, yolov8_with_masks, yolov8_with_points],
    "yolov5": [yolov5],
    "yolox": [yolox],
    "end2end": [end2end, end2end_of_seven],
    "boxes": [separate, priors],
    "queries": [queries],
    "strides": [lambda: by_stride(1)],
    "yunet": [lambda: by_stride(2)],
}


def test_each_layout_has_a_case():
    assert set(MADE) == set(LAYOUTS)


@pytest.mark.parametrize(
    ("layout", "make"), [(layout, make) for layout, makes in MADE.items() for make in makes]
)
def test_a_layout_is_recognised_and_read(layout, make):
    outputs = make()
    assert guess_layout([np.asarray(array) for array in outputs], (SIZE, SIZE)) == layout
    found = read_boxes(case(outputs))
    order = np.argsort(found.boxes[:, 0])
    assert len(order) == 2
    np.testing.assert_allclose(found.boxes[order], TRUE / SIZE, atol=1e-5)
    if layout not in ("strides", "yunet"):  # faces: one class
        assert found.classes[order].tolist() == CLASSES
    assert found.scores.min() > 0.7


def test_of_overlapping_boxes_of_a_class_the_best_stays():
    outputs = yolov8()
    outputs[0][0, :4, 6] = outputs[0][0, :4, 5] + [1, 0, 0, 0]
    outputs[0][0, 4:, 6] = outputs[0][0, 4:, 5] * 0.9
    assert len(read_boxes(case(outputs)).boxes) == 2
    outputs[0][0, 4:, 6] = [0, 0.8, 0]  # of another class
    assert len(read_boxes(case(outputs)).boxes) == 3


def test_outputs_of_no_known_layout_are_refused():
    with pytest.raises(DataError, match=r"out0 \[1, 10\].*choose one with --decoder \(yolov8, "):
        read_boxes(case([np.zeros((1, 10))]))
    with pytest.raises(DataError, match="do not fit --decoder strides"):
        read_boxes(case([np.zeros((1, 10))]), "strides")


def test_f1_counts_what_is_missing_and_what_is_new():
    """Of two boxes one is found, and one that float has not: 2 hits of 4."""
    (score,) = box_agreement(ScoreOptions())
    wanted = {"out0": np.asarray(yolov8()[0], np.float32)}
    other = yolov8()
    other[0][0, :2, 70] = [50, 55]
    assert score.total(score.rows([score.contribution(case(other, wanted))])) == pytest.approx(0.5)
    assert score.total(score.rows([score.contribution(case(yolov8(), wanted))])) == 1
    nothing = {"out0": np.zeros((1, 7, 200), np.float32)}
    assert score.total(score.rows([score.contribution(case(nothing.values(), nothing))])) == 1


def test_overlap_of_boxes():
    assert overlaps(np.array([[0, 0, 2, 2.0]]), np.array([[1, 0, 3, 2.0], [5, 5, 6, 6]])) == pytest.approx(
        np.array([[1 / 3, 0]]), abs=1e-6
    )


def table_of_cells():
    """A YOLOv8 table with a column for each cell of three grids."""
    return [np.hstack([boxes_at(PLACES), scores(PLACES)]).T[None]]


@pytest.mark.parametrize(
    ("layout", "make"),
    [
        ("yolov8", table_of_cells),
        *((layout, makes[0]) for layout, makes in MADE.items() if layout != "yolov8"),
    ],
)
def test_outputs_that_are_surely_boxes(layout, make):
    assert certain_layout(case(make())) == layout


OTHERS = {
    "characters": (1, 40, 97),
    "logits": (1, 10),
    "embeddings": (1, 128, 384),
    "masks": (1, 2, 64, 64),
    "rows of six": (1, 50, 6),
    "four columns": (1, 50, 4),
    "other number of cells": (1, 7, PLACES + 3),
}


@pytest.mark.parametrize("name", list(OTHERS))
def test_other_outputs_are_not_taken_for_boxes(name):
    values = np.random.default_rng(0).normal(size=OTHERS[name])
    assert certain_layout(case([values])) is None
    assert certain_layout(case([values, values[..., 0]])) is None


@pytest.mark.parametrize(
    "shapes",
    [
        ((3,), (84, 7)),
        ((0,), (3, 5, 6)),
        ((3,), (4, 6, 6)),
        ((2, 4, 4), (7, 7), (2, 4, 84)),
        ((1, 6, 1), (1, 6, 4), (4, 84, 84, 6)),
    ],
)
def test_odd_outputs_are_no_error(shapes):
    outputs = [np.random.default_rng(0).normal(size=shape) for shape in shapes]
    assert certain_layout(case(outputs)) is None


def test_without_an_image_nothing_is_a_box():
    assert certain_layout(Case("a sample", {"x": np.zeros((1, 9))}, {"y": table_of_cells()[0]}, None)) is None
