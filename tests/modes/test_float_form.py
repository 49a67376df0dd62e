"""A file that is slower or larger than float is not written: the float model is, with half-precision weights."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxq
from tests.conftest import normal, parse

pytestmark = pytest.mark.may_stay_float
RATIOS = "onnxq.modes.last_word.medians_ms"


@pytest.fixture
def network(rng, tmp_path):
    """Save a network of 64 kB with calibration samples; return a function that quantizes it."""
    text = "g (float[1,64] x) => (float[1,64] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
    weights = {name: normal(rng, 64, 64) / 8 for name in "wv"}
    onnx.save(parse(text, weights), tmp_path / "model.onnx")
    (tmp_path / "data").mkdir()
    for i in range(40):
        np.save(tmp_path / "data" / f"{i:02}.npy", normal(rng, 1, 64))

    def quantize(**options):
        return onnxq.quantize(tmp_path / "model.onnx", tmp_path / "data", tmp_path / "out.onnx", **options)

    return quantize


def stored(path):
    """Return the types of the weights of a file, and the options in its metadata."""
    model = onnx.load(path)
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    properties = {each.key: each.value for each in model.metadata_props}
    return kinds, json.loads(properties.get("onnxq.options", "{}"))


@pytest.mark.parametrize(("ratio", "wanted"), [(0.9, False), (1.02, False), (1.2, True)])
def test_the_slower_form_is_not_written(network, monkeypatch, tmp_path, ratio, wanted):
    monkeypatch.setattr(RATIOS, lambda *_, **__: [1.0, ratio])
    report = network(effort="fast")
    kinds, options = stored(tmp_path / "out.onnx")
    assert (onnx.TensorProto.FLOAT16 in kinds) == wanted
    assert (onnx.TensorProto.INT8 in kinds) != wanted
    assert options.get("float_because_int8_is") == ("slower" if wanted else None)
    said = "int8 takes 1.20x the time of float on this machine: the model stays float"
    assert any(said in line for line in report.warnings) == wanted
    assert report.bytes_after < 0.6 * report.bytes_before
    if wanted:
        assert report.kernels.integer_share == 0 or report.planned == 0
        assert report.outputs.sqnr_db > 60


def test_a_slow_first_measurement_alone_decides_nothing(network, monkeypatch, tmp_path):
    ratios = iter([1.3, 0.9, 0.9, 1.3, 0.9])
    monkeypatch.setattr(RATIOS, lambda *_, **__: [1.0, next(ratios)])
    network(effort="fast")
    assert onnx.TensorProto.INT8 in stored(tmp_path / "out.onnx")[0]


@pytest.mark.parametrize("options", [{"keep_int8": True}, {"skip_slow_nodes": False}])
def test_the_user_may_keep_int8(network, monkeypatch, tmp_path, options):
    monkeypatch.setattr(RATIOS, lambda *_, **__: [1.0, 1.2])
    report = network(effort="fast", **options)
    assert onnx.TensorProto.INT8 in stored(tmp_path / "out.onnx")[0]
    assert any("slower than the float model" in line for line in report.warnings)


def test_another_machine_s_target_is_not_judged_by_times_of_this_one(network, monkeypatch, tmp_path):
    monkeypatch.setattr(RATIOS, lambda *_, **__: [1.0, 1.2])
    monkeypatch.setattr("onnxq.cost.target.is_arm", lambda _system: False)
    network(effort="fast", target="arm")
    assert onnx.TensorProto.INT8 in stored(tmp_path / "out.onnx")[0]


def test_a_larger_file_is_not_written(rng, tmp_path):
    """The scales of so small a model take more bytes than int8 saves: the float model itself is smallest."""
    text = "g (float[1,4] x) => (float[1,4] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
    model = parse(text, {name: normal(rng, 4, 4) for name in "wv"})
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "data").mkdir()
    for i in range(24):
        np.save(tmp_path / "data" / f"{i:02}.npy", normal(rng, 1, 4))
    report = onnxq.quantize(tmp_path / "model.onnx", tmp_path / "data", tmp_path / "out.onnx")
    assert report.bytes_after <= report.bytes_before == (tmp_path / "model.onnx").stat().st_size
    assert any("the file is the float model" in line for line in report.warnings)
    x = {"x": normal(rng, 1, 4)}
    one, other = (
        ort.InferenceSession(tmp_path / name).run(None, x)[0] for name in ("model.onnx", "out.onnx")
    )
    assert np.array_equal(one, other)


def test_values_of_the_copy_are_its_own(rng, tmp_path):
    """Normalizing gives a value in front of the Softmax another shape under the same name."""
    text = """g (float[1,4] x) => (float[1,4] y) {
        h = MatMul(x, w) u = Unsqueeze(h, first) s = Squeeze(u, first) r = Reshape(s, shape) y = Softmax(r) }"""
    constants = {"w": normal(rng, 4, 4), "first": np.int64([0]), "shape": np.int64([1, 4])}
    onnx.save(parse(text, constants), tmp_path / "model.onnx")
    (tmp_path / "data").mkdir()
    for i in range(24):
        np.save(tmp_path / "data" / f"{i:02}.npy", normal(rng, 1, 4))
    report = onnxq.quantize(tmp_path / "model.onnx", tmp_path / "data", tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()
    assert report.outputs.sqnr_db > 100
