"""LSTMs with int8 weights, if requested."""

import numpy as np
import onnx
import pytest

import onnxq
from onnxq.errors import OnnxqError
from onnxq.runtime.release import runtime_release
from tests.conftest import normal, parse, runtime_outputs

TEXT = """g (float[7,2,8] x) => (float[7,D,2,5] s, float[D,2,5] last) {
    s, last = LSTM<hidden_size=5, direction="DIRECTION">(x, wi, wr, b) }"""


@pytest.fixture(params=["forward", "bidirectional"])
def model(request, tmp_path, rng):
    d = 2 if request.param == "bidirectional" else 1
    text = TEXT.replace("DIRECTION", request.param).replace("D,", f"{d},")
    constants = {
        "wi": 0.3 * normal(rng, d, 20, 8),
        "wr": 0.3 * normal(rng, d, 20, 5),
        "b": normal(rng, d, 40),
    }
    onnx.save_model(parse(text, constants), tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    for i in range(16):
        np.save(tmp_path / "calib" / f"{i:02}.npy", normal(rng, 7, 2, 8))
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("measure", [False, True])
def test_weights_are_int8_and_the_outputs_hold(model, measure):
    report = onnxq.quantize(model, model.parent / "calib", dynamic_lstm=True, measure=measure)
    assert report.kernels.counts["DynamicQuantizeLSTM"] == 1
    assert not report.floats
    feeds = {"x": np.load(model.parent / "calib" / "03.npy")}
    for a, b in zip(
        runtime_outputs(model, feeds), runtime_outputs(model.with_name("model.int8.onnx"), feeds), strict=True
    ):
        assert np.abs(a - b).max() < 0.05


def test_without_being_asked_a_small_lstm_stays_float(model):
    with pytest.raises(OnnxqError, match="nothing to quantize"):
        onnxq.quantize(model, model.parent / "calib")


@pytest.fixture
def large(tmp_path, rng):
    text = "g (float[7,1,64] x) => (float[7,1,1,96] s) { h = LSTM<hidden_size=96>(x, wi, wr) s = Tanh(h) }"
    onnx.save_model(
        parse(text, {"wi": 0.1 * normal(rng, 1, 384, 64), "wr": 0.1 * normal(rng, 1, 384, 96)}),
        tmp_path / "model.onnx",
    )
    (tmp_path / "calib").mkdir()
    for i in range(16):
        np.save(tmp_path / "calib" / f"{i:02}.npy", normal(rng, 7, 1, 64))
    return tmp_path / "model.onnx"


def test_one_that_gains_by_it_gets_int8_weights_where_the_outputs_hold(large):
    report = onnxq.quantize(large, large.parent / "calib")
    assert report.kernels.counts["DynamicQuantizeLSTM"] == 1
    assert report.outputs.sqnr_db > 25


@pytest.mark.parametrize(
    "options", [{"dynamic_lstm": False}, {"op_types": ("Tanh",)}, {"exclude": ("*",)}, {"standard": True}]
)
def test_the_users_choice_counts(large, options):
    with pytest.raises(OnnxqError, match="nothing to quantize"):
        onnxq.quantize(large, large.parent / "calib", **options)


# before 1.28 the kernel returns garbage for one scale beside many, and the measurement says so
SHARED = 1 if runtime_release() >= (1, 28) else 384


@pytest.mark.parametrize(("largest", "scales"), [(1, SHARED), (10, 384)])
def test_rows_of_r_share_a_scale_where_the_outputs_do_not_miss_theirs(large, largest, scales):
    model = onnx.load(large)
    (r,) = [tensor for tensor in model.graph.initializer if tensor.name == "wr"]
    array = onnx.numpy_helper.to_array(r).copy()
    array[:, ::5] *= largest  # in some gates: one scale for all would ruin the others
    r.CopyFrom(onnx.numpy_helper.from_array(array, "wr"))
    onnx.save_model(model, large)
    report = onnxq.quantize(large, large.parent / "calib")
    assert report.kernels.counts["DynamicQuantizeLSTM"] == 1
    written = onnx.load(large.with_name("model.int8.onnx"))
    (scale,) = [tensor for tensor in written.graph.initializer if tensor.name == "wr_scale"]
    assert onnx.numpy_helper.to_array(scale).size == scales
