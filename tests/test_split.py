"""Inputs divided by magnitude."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import onnxq
from onnxq.options import Mode
from onnxq.techniques.saturation import saturating_pairs
from onnxq.techniques.split import PIECES, split_input
from tests.conftest import normal, parse


def columns(x, split):
    """x [rows, K] as the graph divides it."""
    pieces, rest = [], x
    for bound in split.bounds:
        inner = np.clip(rest, -bound, bound)
        pieces.append(rest - inner)
        rest = inner
    return np.concatenate([*pieces, rest] * 2, axis=1) * split.factors


weights = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(-10, 10, width=32))


@given(weights, st.integers(2, 4), st.randoms(use_true_random=False))
def test_columns_times_weights_are_the_product_and_no_pair_saturates(weight, pieces, random):
    k = weight.shape[1]
    largest = np.array([10.0 ** random.uniform(-6, 3) for _ in range(k)], np.float32)
    split = split_input(weight, largest, pieces)
    assert saturating_pairs(split.stored) == 0
    x = np.array([[v * random.uniform(-2, 2) * 10.0 ** random.uniform(-4, 0) for v in largest] for _ in range(5)], np.float32)
    found = columns(x, split) @ (split.stored * split.scales[:, None]).T
    # what is left of each weight is half a step of its copy at most
    values = np.abs(columns(x, split)).reshape(len(x), 2, -1)
    most = split.scales[:, None] * values.min(axis=1).sum(axis=1) / 2
    exact = np.finfo(np.float32).tiny  # below it float32 itself rounds to steps
    assert (most * 1.001 + 1e-5 * np.abs(x @ weight.T).T + exact >= np.abs(found - x @ weight.T).T).all()


def test_columns_that_were_always_zero_take_the_largest_scale():
    split = split_input(np.ones((2, 3), np.float32), np.array([4.0, 0.0, 1.0], np.float32), 2)
    np.testing.assert_array_equal(split.bounds[0], np.array([4.0, 4.0, 1.0]) / PIECES[2][0])
    assert np.isfinite(split_input(np.ones((2, 3), np.float32), np.zeros(3, np.float32), 3).factors).all()


@pytest.fixture
def wide(tmp_path, rng):
    """An LSTM whose inputs span six decades, the small ones as important as the large: their weights are large."""
    scale = (10.0 ** -np.arange(0, 6, 0.25)).astype(np.float32)
    w = 0.3 * normal(rng, 2, 384, 24) / scale
    text = """g (float[9,1,24] x) => (float[2,1,96] last) {
        s, last = LSTM<hidden_size=96, direction="bidirectional">(x, wi, wr) }"""
    onnx.save_model(parse(text, {"wi": w, "wr": 0.1 * normal(rng, 2, 384, 96)}), tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    for i in range(24):
        np.save(tmp_path / "calib" / f"{i:02}.npy", scale * normal(rng, 9, 1, 24))
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("mode", [Mode.STATIC, Mode.DYNAMIC])
def test_an_lstm_of_wide_inputs_gets_int8_weights_and_holds(wide, mode):
    report = onnxq.quantize(wide, wide.parent / "calib", mode=mode)
    assert report.kernels.counts["DynamicQuantizeLSTM"] == 1
    assert "split" in report.techniques
    assert report.outputs.sqnr_db > 24
    written = onnx.load(wide.with_name("model.int8.onnx"))
    (node,) = [node for node in written.graph.node if node.op_type == "DynamicQuantizeLSTM"]
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in written.graph.initializer}
    for name in node.input[1:3]:
        assert all(saturating_pairs(rows.T) == 0 for rows in stored[name])  # a direction each


def test_only_the_last_state_used(wide):
    model = onnx.load(wide)
    model.graph.node[0].output[0] = ""
    onnx.save_model(model, wide)
    report = onnxq.quantize(wide, wide.parent / "calib")
    assert report.kernels.counts["DynamicQuantizeLSTM"] == 1
    assert report.outputs.sqnr_db > 24


def test_without_it_that_lstm_stays_float(wide):
    with pytest.raises(onnxq.OnnxqError, match=r"nothing to quantize: LSTM '.*': its inputs have a range"):
        onnxq.quantize(wide, wide.parent / "calib", without=("split",))
