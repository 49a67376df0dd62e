"""Addends in front of a Relu: the clipping range leaves out values that the Relu removes."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxq.calibration.collect import collect
from onnxq.evaluation.debugging import debug
from onnxq.normalize.passes import normalize
from onnxq.options import Effort, Method, QuantizeOptions
from onnxq.pipeline import quantize
from onnxq.plan.relu_addends import Addend, find_addends
from tests.conftest import Quantized, as_samples, normal, parse, run, to_ir

VALUES = arrays(np.float32, (2, 3), elements=st.floats(-100, 100, width=32))
BLOCK = "r = Relu(x) h = Conv(r, w) s = Add(h, r) y = Relu(s)"
OTHERS = {
    "the sum goes elsewhere too": "r = Relu(x) h = Conv(r, w) s = Add(h, r) t = Relu(s) y = Mul(s, t)",
    "the addend goes elsewhere too": "r = Relu(x) h = Conv(r, w) s = Add(h, r) t = Relu(s) y = Mul(h, t)",
    "twice the same": "h = Conv(x, w) s = Add(h, h) y = Relu(s)",
    "no clamp": "r = Relu(x) h = Conv(r, w) y = Add(h, r)",
    "another bound": "r = Relu(x) h = Conv(r, w) s = Add(h, r) y = Clip(s, low, high)",
    "a constant": "h = Mul(x, x) s = Add(h, b) y = Relu(s)",
    "an input": "h = Conv(x, w) s = Add(x, h) y = Relu(s)",
}


def block(rng: np.random.Generator, text: str = BLOCK, scale: float = 1.0) -> onnx.ModelProto:
    constants = {
        "w": scale * normal(rng, 4, 4, 1, 1),
        "b": normal(rng, 1, 4, 1, 1),
        "low": np.float32(-1),
        "high": np.float32(1),
    }
    used = {name: array for name, array in constants.items() if f"{name})" in text or f"{name}," in text}
    return parse("g (float[1,4,6,6] x) => (float[1,4,6,6] y) { " + text + " }", used)


@given(VALUES, VALUES)
def test_the_clamp_gives_the_same(a, b):
    values = {"a": a, "b": b}
    left, right = Addend("a", "b").of(values), Addend("b", "a").of(values)
    wanted = np.maximum(a + b, 0)
    for one, other in ((left, b), (a, right), (left, right)):
        np.testing.assert_allclose(np.maximum(one + other, 0), wanted, atol=1e-4)
    assert np.all(np.abs(left) <= np.abs(a))


def test_a_broadcast_addend_counts_whole(rng):
    a, b = normal(rng, 1, 4, 1, 1), normal(rng, 1, 4, 6, 6)
    assert np.array_equal(Addend("a", "b").of({"a": a, "b": b}), a)


def test_addends_are_found(rng):
    model = normalize(to_ir(block(rng)))
    assert find_addends(model, ["x", "h", "r", "s", "y"]) == {"h": Addend("h", "r")}
    assert find_addends(model, ["r", "s"]) == {}


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_other_values_are_no_addends(rng, text):
    assert find_addends(normalize(to_ir(block(rng, text))), ["h", "r", "x"]) == {}


def test_ranges_are_those_of_effective_values(rng):
    model = block(rng, scale=3.0)
    samples = [{"x": normal(rng, 1, 4, 6, 6)} for _ in range(8)]
    statistics = collect(normalize(to_ir(model)), ["h", "r"], as_samples(samples), "")
    values = [np.maximum(feeds["x"], 0) for feeds in samples]
    most = max(float(value.max()) for value in values)
    assert statistics.sketches["h"].minimum >= -most
    assert statistics.sketches["r"].maximum == pytest.approx(most)


def test_a_residual_sum_comes_closer_to_float(rng):
    """Compare with a convolution whose full range matters, because another node uses its result."""
    constants = {"w": 4 * normal(rng, 8, 8, 1, 1), "v": normal(rng, 8, 8, 1, 1), "u": normal(rng, 8, 8, 1, 1)}
    constants["w"] -= 1.0
    head = "g (float[1,8,6,6] x) => (float[1,8,6,6] y{}) {{ r = Relu(x) h = Conv(r, w) s = Add(h, r) t = Relu(s) y = Conv(t, v) {} }}"
    feeds = [{"x": normal(rng, 1, 8, 6, 6)} for _ in range(8)]
    errors = []
    for more in (("", ""), (", float[1,8,6,6] z", "z = Conv(h, u)")):
        model = parse(
            head.format(*more), {name: array for name, array in constants.items() if name != "u" or more[0]}
        )
        quantized = Quantized(model, feeds)
        errors.append(
            max(float(np.abs(run(model, feed)[0] - run(quantized.model, feed)[0]).max()) for feed in feeds)
        )
    assert errors[0] < 0.8 * errors[1]


def test_debug_ignores_values_that_the_relu_removes(rng, tmp_path):
    constants = {"w": 4 * normal(rng, 8, 8, 1, 1) - 1, "v": normal(rng, 8, 8, 1, 1)}
    text = "r = Relu(x) h = Conv(r, w) s = Add(h, r) t = Relu(s) y = Conv(t, v)"
    model = parse("g (float[1,8,6,6] x) => (float[1,8,6,6] y) { " + text + " }", constants)
    feeds = [{"x": normal(rng, 1, 8, 6, 6)} for _ in range(8)]
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "data").mkdir()
    for index, each in enumerate(feeds):
        np.savez(tmp_path / "data" / f"{index}.npz", **each)
    written = tmp_path / "i.onnx"
    options = QuantizeOptions(
        tmp_path / "m.onnx",
        tmp_path / "data",
        written,
        effort=Effort.FAST,
        method=Method.MINMAX,
        details=True,
    )
    report = quantize(options)
    row = next(
        row for row in debug(tmp_path / "m.onnx", written, tmp_path / "data").layers if row.op_type == "Conv"
    )
    assert row.clipped < 0.01
    assert not row.advice
    assert row.sqnr_db > 30
    assert next(layer for layer in report.layers if layer.name == row.name).sqnr_db > 30
