"""The recipe for a calibration method: one function, and its entry in METHODS."""

import numpy as np
import onnx
import pytest

import onnxq
from onnxq.calibration.methods import METHODS, MethodOptions, choose_range
from onnxq.options import Method
from tests.calibration.sketches import sketch_of
from tests.conftest import Quantized, normal, parse

NAME = "half-range"
TEXT = "g (float[1,16] x) => (float[1,4] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }"


def half_range(sketch, options):
    """A method of a user: half of the values seen."""
    return sketch.minimum / 2, sketch.maximum / 2


@pytest.fixture
def registered(monkeypatch):
    """The registration, the only place that knows the method."""
    monkeypatch.setitem(METHODS, NAME, half_range)


@pytest.fixture
def model(rng):
    return parse(TEXT, {"w": normal(rng, 16, 16) / 4, "v": normal(rng, 16, 4)})


@pytest.mark.usefixtures("registered")
def test_a_registered_method_chooses_ranges(rng):
    x = normal(rng, 1000)
    assert choose_range(sketch_of(x), NAME, MethodOptions()) == (x.min() / 2, x.max() / 2)


@pytest.mark.usefixtures("registered")
def test_a_registered_method_sets_the_scales_of_a_model(model, rng):
    feeds = [{"x": normal(rng, 1, 16)} for _ in range(8)]
    whole, half = (Quantized(model, feeds, method=method) for method in (Method.MINMAX, NAME))
    scales = [float(each.parameters.activations["x"].scale) for each in (whole, half)]
    assert scales[1] == pytest.approx(scales[0] / 2)


@pytest.mark.usefixtures("registered")
def test_a_registered_method_is_a_candidate_of_auto_and_can_be_asked_for(model, rng, tmp_path):
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "data").mkdir()
    for i in range(12):
        np.save(tmp_path / "data" / f"{i:02}.npy", normal(rng, 1, 16))
    asked = onnxq.quantize(tmp_path / "model.onnx", tmp_path / "data", tmp_path / "half.onnx", method=NAME)
    assert asked.method == NAME
    auto = onnxq.quantize(
        tmp_path / "model.onnx", tmp_path / "data", tmp_path / "auto.onnx", method=Method.AUTO
    )
    assert auto.method in METHODS
    assert NAME in {str(trial.method) for trial in auto.trials}
