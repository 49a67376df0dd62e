"""Detectors: nodes stay in float by their boxes where the SQNR of their scores leaves too little in int8."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.evaluation.box_agreement import MOST_UNSURE, BoxTally, FloatBoxes
from onnxq.options import QuantizeOptions
from onnxq.pipeline import quantize
from onnxq.search.settings import SearchSettings
from tests.conftest import parse

SIDE, CLASSES = 128, 3
STRIDES = (8, 16, 32)
ROWS = 4 + CLASSES


def grid(stride: int) -> np.ndarray:
    """Return [4, cells]: a small box in the centre of each cell."""
    places = stride * (np.indices((SIDE // stride, SIDE // stride)).reshape(2, -1)[::-1] + 0.5)
    return np.vstack([places, np.full_like(places, 0.8 * stride)]).astype(np.float32)


def detector(rows: int, random: np.random.Generator) -> onnx.ModelProto:
    """Return a detector with a random backbone: its head gives `rows` values for each cell of three grids."""
    lines, last, channels, weights = [], "x", 3, dict[str, np.ndarray]()

    def convolution(name: str, x: str, size: int, inputs: int, outputs: int, *, stride: int = 1) -> None:
        values = random.normal(size=(outputs, inputs, size, size)) * (2 / (inputs * size * size)) ** 0.5
        weights[f"w_{name}"] = values.astype(np.float32)
        pads = ",".join([str(size // 2)] * 4)
        lines.append(f"{name} = Conv<strides=[{stride},{stride}], pads=[{pads}]>({x}, w_{name})")

    for index in range(5):
        wide = 16 << min(index, 2)
        convolution(f"c{index}", last, 3, channels, wide, stride=2)
        lines.append(f"r{index} = Relu(c{index})")
        last, channels = f"r{index}", wide
        if index >= 2:
            convolution(f"h{index}", last, 1, channels, rows)
            weights[f"s{index}"] = np.array([1, rows, -1])
            lines.append(f"t{index} = Reshape(h{index}, s{index})")
    weights |= {"from": np.array([0]), "at": np.array([4]), "to": np.array([rows]), "axis": np.array([1])}
    weights["grid"] = np.hstack([grid(stride) for stride in STRIDES])
    weights |= {"sharp": np.float32(6), "rare": np.float32(-9)}
    lines += [
        "all = Concat<axis=2>(t2, t3, t4)",
        "raw = Slice(all, from, at, axis)",
        "logits = Slice(all, at, to, axis)",
        "curve = Tanh(raw)",
        "boxes = Add(grid, curve)",
        "sharper = Mul(logits, sharp)",
        "few = Add(sharper, rare)",
        "scores = Sigmoid(few)",
        "y = Concat<axis=1>(boxes, scores)",
    ]
    cells = sum((SIDE // stride) ** 2 for stride in STRIDES)
    text = f"d (float[1,3,{SIDE},{SIDE}] x) => (float[1,{rows},{cells}] y) {{ {' '.join(lines)} }}"
    return parse(text, weights)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder, random = tmp_path_factory.mktemp("detector"), np.random.default_rng(3)
    onnx.save(detector(ROWS, random), folder / "model.onnx")
    (folder / "calib").mkdir()
    for index in range(16):
        image = random.normal(size=(1, 3, SIDE // 8, SIDE // 8)).repeat(8, axis=2).repeat(8, axis=3)
        np.save(folder / "calib" / f"{index:02}.npy", image.astype(np.float32))
    return folder


UNREACHABLE = SearchSettings(target_db=70.0, least_saving=1.0)
"""A target by which every model stays float."""


@pytest.mark.parametrize(("wanted", "integers"), [(0.5, True), (1.1, False)])
def test_boxes_decide_where_the_scores_would_leave_the_model_in_float(work, wanted, integers, tmp_path):
    options = QuantizeOptions(work / "model.onnx", work / "calib", tmp_path / "out.onnx")
    report = quantize(options, settings=replace(UNREACHABLE, wanted_box_f1=wanted))
    assert report.outputs.boxes.layout == "yolov8"
    assert (report.kernels.counts.get("QLinearConv", 0) > 0) == integers


def test_a_limit_of_the_user_decides_alone(work, tmp_path):
    options = QuantizeOptions(work / "model.onnx", work / "calib", tmp_path / "out.onnx")
    options = replace(options, limits=replace(options.limits, min_sqnr=60.0), keep_int8=True)
    report = quantize(options, settings=replace(UNREACHABLE, wanted_box_f1=0.5))
    assert report.outputs.sqnr_db >= 60


def table(scores: list[float]) -> list[np.ndarray]:
    """A table of the grids' cells with one box for each score."""
    cells = np.zeros((1, ROWS, sum((64 // stride) ** 2 for stride in STRIDES)), np.float32)
    for index, score in enumerate(scores):
        cells[0, :5, index] = 20, 10 + index, 8, 0.9, score
    return [cells]


FEEDS = {"x": np.zeros((1, 3, 64, 64), np.float32)}


def test_a_first_sample_without_a_sure_box_is_no_end():
    tally = BoxTally(FloatBoxes(["y"]))
    tally.add("unsure", FEEDS, [np.zeros((1, 9), np.float32)], [np.zeros((1, 9), np.float32)])
    for index in range(20):
        tally.add(f"{index}", FEEDS, table([0.9]), table([0.8] if index else [0.1]))
    found = tally.result()
    assert (found.boxes, found.layout) == (20, "yolov8")
    assert found.f1 == pytest.approx(2 * 19 / 39)


def test_a_file_without_the_form_of_boxes_finds_none():
    tally = BoxTally(FloatBoxes(["y"]))
    for index in range(20):
        tally.add(f"{index}", FEEDS, table([0.9]), [np.zeros((1, 9), np.float32)])
    assert tally.result().f1 == 0


def test_other_models_are_looked_at_a_few_times_only():
    boxes = FloatBoxes(["y"])
    for index in range(MOST_UNSURE):
        assert boxes.readable
        assert boxes.read(boxes.case(f"{index}", FEEDS, [np.zeros((1, 9), np.float32)])) is None
    assert not boxes.readable
    assert boxes.read(boxes.case("late", FEEDS, table([0.9]))) is None


def test_the_float_models_boxes_are_read_once(monkeypatch):
    boxes = FloatBoxes(["y"])
    first = boxes.read(boxes.case("a", FEEDS, table([0.9])))
    assert boxes.read(boxes.case("a", FEEDS, table([0.9]))) is first
