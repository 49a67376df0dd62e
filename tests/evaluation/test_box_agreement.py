"""Boxes of detectors, compared with the float model's."""

import numpy as np
import pytest

from onnxq.evaluation.box_agreement import MOST_UNSURE, BoxTally

STRIDES, ROWS = (8, 16, 32), 7


def table(scores: list[float]) -> list[np.ndarray]:
    """A table of the grids' cells with one box for each score."""
    cells = np.zeros((1, ROWS, sum((64 // stride) ** 2 for stride in STRIDES)), np.float32)
    for index, score in enumerate(scores):
        cells[0, :5, index] = 20, 10 + index, 8, 0.9, score
    return [cells]


FEEDS = {"x": np.zeros((1, 3, 64, 64), np.float32)}


def test_a_first_sample_without_a_sure_box_is_no_end():
    tally = BoxTally(["y"])
    tally.add("unsure", FEEDS, [np.zeros((1, 9), np.float32)], [np.zeros((1, 9), np.float32)])
    for index in range(20):
        tally.add(f"{index}", FEEDS, table([0.9]), table([0.8] if index else [0.1]))
    found = tally.result()
    assert (found.boxes, found.layout) == (20, "yolov8")
    assert found.f1 == pytest.approx(2 * 19 / 39)


def test_a_file_without_the_form_of_boxes_finds_none():
    tally = BoxTally(["y"])
    for index in range(20):
        tally.add(f"{index}", FEEDS, table([0.9]), [np.zeros((1, 9), np.float32)])
    assert tally.result().f1 == 0


def test_other_models_are_looked_at_a_few_times_only():
    tally, nothing = BoxTally(["y"]), [np.zeros((1, 9), np.float32)]
    for index in range(MOST_UNSURE):
        assert tally.counts
        tally.add(f"{index}", FEEDS, nothing, nothing)
    assert not tally.counts
    for index in range(20):
        tally.add(f"late {index}", FEEDS, table([0.9]), table([0.9]))
    assert tally.result() is None
