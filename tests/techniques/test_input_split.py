"""Inputs split into a coarse and a fine digit."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import onnxq
from onnxq.formats.lstm import LstmForm, quantize_lstms
from onnxq.options import Mode
from onnxq.techniques.input_split import (
    FINE,
    TOP,
    WIDER,
    Split,
    column_steps,
    digits,
    interleave,
    split_weight,
)
from onnxq.techniques.saturation import saturating_pairs
from tests.conftest import normal, parse, run, to_ir

weights = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(-10, 10, width=32)
)


@given(weights, st.booleans(), st.randoms(use_true_random=False))
def test_digits_times_their_weights_are_the_product(weight, signed, random):
    k = weight.shape[1]
    largest = np.array([10.0 ** random.uniform(-6, 3) for _ in range(k)], np.float32)
    x = np.array(
        [
            [v * random.uniform(-2 * signed, 2) * 10.0 ** random.uniform(-4, 0) for v in largest]
            for _ in range(5)
        ],
        np.float32,
    )
    steps = column_steps(weight, largest**2)
    found = digits(x, steps, signed=signed) @ split_weight(weight, steps).T
    most = np.abs(digits(x, steps, signed=signed)) @ np.abs(split_weight(weight, steps)).T
    assert (
        np.abs(found - x @ weight.T) <= 1e-5 * most + 1e-30
    ).all()  # weights may be the smallest there are


def test_the_columns_of_a_run_fill_eight_bits_and_no_more():
    x = np.abs(np.random.default_rng(0).standard_normal((40, 1, 5))).astype(np.float32)
    found = digits(x, np.ones(5, np.float32), signed=False)
    assert np.rint(found.max() / (x.max() / TOP)) == 255
    assert found.min() >= 0


def test_a_column_that_was_silent_does_not_drown_the_others_when_it_is_not():
    weight, power = np.ones((2, 3), np.float32), np.array([1.0, 0.0, 1e-12], np.float32)
    np.testing.assert_allclose(column_steps(weight, power), [1, 0.01, 0.01])
    np.testing.assert_array_equal(column_steps(weight, np.zeros(3, np.float32)), [1, 1, 1])
    assert np.isfinite(column_steps(np.zeros((2, 3), np.float32), power)).all()


def test_weights_that_are_next_to_nothing_leave_the_other_columns_numbers():
    weight = np.array([[1.0, 1e-40, 0.0]], np.float32)  # as weight decay leaves them
    steps = column_steps(weight, np.ones(3, np.float32))
    assert np.isfinite(1 / steps).all()
    assert steps.argmin() == 0  # what has no weight takes no part of the range


def test_neighbours_are_digits_of_different_weight():
    first, second = np.arange(5), np.arange(5) + 10
    found = interleave(first, second)
    assert sorted(found) == sorted([*first, *second])
    assert all((a >= 10) != (b >= 10) for a, b in zip(found[::2], found[1::2], strict=True))


def divided_columns(x, steps, *, signed):
    """Run the operators that split an input in the written graph."""
    k, hidden = x.shape[-1], 4
    text = f"g (float[S,B,{k}] x) => (float[S,1,B,{hidden}] y) {{ y = LSTM<hidden_size={hidden}>(x, w, r) }}"
    model = parse(text, {"w": np.zeros((1, 16, k), np.float32), "r": np.zeros((1, 16, hidden), np.float32)})
    model.graph.node[0].name = "lstm"
    ir_model = to_ir(model)
    columns = 2 * k + 2 * signed
    split = Split(steps, signed, np.zeros((1, 16, columns), np.int8), np.ones((1, 16), np.float32))
    form = LstmForm(
        (split.stored, np.zeros((1, 16, hidden), np.int8)),
        (split.scales, np.ones((1, 16), np.float32)),
        split,
    )
    quantize_lstms(ir_model, {"lstm": form})
    node = next(node for node in ir_model.graph if node.op_type == "DynamicQuantizeLSTM")
    ir_model.graph.outputs.append(node.inputs[0])
    return run(ir_model, {"x": x})[1]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("k", [4, 5])
def test_what_the_graph_has_given_of_a_column_stays_with_what_it_had(rng, signed, k):
    x = (
        normal(rng, 200, 3, k)
        * (10.0 ** -np.arange(k)).astype(np.float32)
        * np.exp(2 * normal(rng, 200, 1, 1))
    )
    x = x if signed else np.abs(x)
    steps = (10.0 ** -np.arange(k) * 0.3).astype(np.float32)
    found = divided_columns(x, steps, signed=signed)
    low, high = min(found.min(), 0), found.max()  # as the runtime quantizes it
    scale = (high - low) / 255
    found = np.rint(found / scale) * scale / (1 if signed else WIDER)
    even = np.arange(k) % 2 == 0
    whole, turned = np.split(found[..., : 2 * k], 2, axis=-1)
    first, second = np.where(even, whole, turned), np.where(even, turned, whole)
    given_so_far = np.cumsum((first + second / FINE) * steps, axis=0, dtype=np.float64)
    seen = np.cumsum(x, axis=0, dtype=np.float64)
    off, sixteenth = np.abs(given_so_far - seen), scale * steps / FINE
    lost = np.abs(np.cumsum(np.rint(x / steps / scale) * steps * scale - x, axis=0, dtype=np.float64))
    assert (
        off <= (0.51 if signed else 8) * sixteenth
    ).all()  # without negative values the range of a run is a guess, to 10^-3
    assert (lost.max(axis=(0, 1)) > 20 * off.max(axis=(0, 1))).all()


def test_silence_stays_silence():
    found = divided_columns(np.zeros((6, 1, 4), np.float32), np.ones(4, np.float32), signed=False)
    np.testing.assert_array_equal(found, 0)


@pytest.fixture
def wide(tmp_path, rng):
    """An LSTM whose inputs span six decades; the small ones have large weights, so they matter as much."""
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


@pytest.mark.parametrize("without", ["split", "gptq"])
def test_without_it_that_lstm_stays_float(wide, without):
    with pytest.raises(
        onnxq.OnnxqError, match=r"nothing to quantize: LSTM '.*': the range of its inputs is too wide"
    ):
        onnxq.quantize(wide, wide.parent / "calib", without=(without,))
