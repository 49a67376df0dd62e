"""A file that is slower or larger than float is not written: the float model is, with half-precision weights."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxq
from onnxq.cost.placement import Placement
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


@pytest.mark.parametrize(
    ("ratio", "table", "wanted"), [(1.0, 1e6, True), (0.9, 1e6, False), (1.0, 10, False)]
)
def test_a_form_that_is_neither_faster_nor_smaller_is_not_written(
    network, monkeypatch, tmp_path, ratio, table, wanted
):
    monkeypatch.setattr(RATIOS, lambda *_, **__: [1.0, ratio])
    model = onnx.load(tmp_path / "model.onnx")  # with a table of integers that no form makes smaller
    node = onnx.helper.make_node("Gather", ["table", "zero"], ["one"])
    model.graph.node.append(node)
    model.graph.output.append(onnx.helper.make_tensor_value_info("one", onnx.TensorProto.INT64, []))
    for name, array in (("table", np.arange(int(table))), ("zero", np.int64(0))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, tmp_path / "model.onnx")
    report = network(effort="fast")
    assert (onnx.TensorProto.INT8 in stored(tmp_path / "out.onnx")[0]) != wanted
    said = (
        "int8 takes 1.00x the time of float on this machine and 1.00x its bytes: the file is the float model"
    )
    assert any(said in line for line in report.warnings) == wanted


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


def places(side):
    """Return the centres of the cells of a grid in rows 0 and 1 of six, [6, cells]."""
    centres = np.arange(side / 2, 64, side, dtype=np.float32)
    x, y = np.meshgrid(centres, centres)
    return np.stack([x.ravel(), y.ravel(), *np.zeros((4, x.size), np.float32)])


@pytest.fixture
def detector(rng, tmp_path):
    """Save a detector with the output of a YOLOv8 for 64 x 64 pixels; return a function that quantizes it.

    Its scores lie around the threshold of a box, so that little noise changes many boxes.
    """
    weights, parts = {}, []
    for side in (8, 16, 32):
        weights[f"w{side}"] = normal(rng, 16, 3, side, side) / side
        weights[f"u{side}"] = normal(rng, 256, 16, 3, 3) / 12
        weights[f"v{side}"] = normal(rng, 6, 256, 1, 1) / 16
        parts.append(
            f"h{side} = Conv<strides=[{side},{side}]>(x, w{side}) r{side} = Relu(h{side}) "
            f"d{side} = Conv<pads=[1,1,1,1]>(r{side}, u{side}) e{side} = Relu(d{side}) "
            f"c{side} = Conv(e{side}, v{side}, b) t{side} = Reshape(c{side}, flat)"
        )
    weights["b"] = np.array([0, 0, 4, 4, -1.1, -1.1], np.float32)
    weights["at"] = np.concatenate([places(8), places(16), places(32)], axis=1)[None]
    weights |= {"flat": np.array([1, 6, -1]), "sizes": np.array([4, 2])}
    text = " ".join(parts) + (
        " q = Concat<axis=2>(t8, t16, t32) t = Add(q, at) a, s = Split<axis=1>(t, sizes) p = Sigmoid(s) y = Concat<axis=1>(a, p)"
    )
    onnx.save(
        parse(f"g (float[1,3,64,64] x) => (float[1,6,84] y) {{ {text} }}", weights), tmp_path / "model.onnx"
    )
    (tmp_path / "data").mkdir()
    for i in range(40):
        np.save(tmp_path / "data" / f"{i:02}.npy", normal(rng, 1, 3, 64, 64))

    def quantize(**options):
        return onnxq.quantize(tmp_path / "model.onnx", tmp_path / "data", tmp_path / "out.onnx", **options)

    return quantize


def test_a_detector_that_loses_boxes_stays_float(detector, monkeypatch, tmp_path):
    monkeypatch.setattr(RATIOS, lambda *_, **__: [1.0, 0.5])
    monkeypatch.setattr("onnxq.modes.last_word.LEAST_BOX_F1", 0.9999)
    monkeypatch.setattr("onnxq.search.placement.place", lambda plan, *_: Placement((), ()))
    report = detector(effort="fast", skip_slow_nodes=True)
    assert report.outputs.boxes.layout == "yolov8"
    assert report.outputs.boxes.f1 > 0.9999
    assert report.outputs.boxes.boxes > 50
    assert stored(tmp_path / "out.onnx")[1]["float_because_int8_is"] == "missing boxes"
    assert any("boxes agree with float's by" in line for line in report.warnings)
    kept = detector(effort="fast", keep_int8=True, force=True)
    assert 0.5 < kept.outputs.boxes.f1 < 0.9999, kept.outputs.boxes
    assert kept.kernels.model_share > 0.9


def test_a_detector_that_keeps_its_boxes_is_int8(detector, monkeypatch):
    monkeypatch.setattr(RATIOS, lambda *_, **__: [1.0, 0.5])
    monkeypatch.setattr("onnxq.modes.last_word.LEAST_BOX_F1", 0.5)
    monkeypatch.setattr("onnxq.search.placement.place", lambda plan, *_: Placement((), ()))
    report = detector(effort="fast")
    assert report.kernels.model_share > 0.9
    assert not any("boxes agree" in line for line in report.warnings)


def test_nodes_without_names_keep_their_reasons_at_the_models_own_opset(rng, monkeypatch, tmp_path):
    monkeypatch.setattr(RATIOS, lambda *_, **__: [1.0, 1.2])
    text = (
        "g (float[1,1,64] x) => (float[64] y) { s = Squeeze<axes=[0]>(x) h = MatMul(s, w)"
        " d = Sub(h, c) t = Tanh(d) k = MatMul(t, v) y = Squeeze<axes=[0]>(k) }"
    )  # newer opsets have axes as an input: the converter adds nodes
    constants = {"w": normal(rng, 64, 64) / 8, "v": normal(rng, 64, 64) / 8, "c": normal(rng, 64)}
    onnx.save(parse(text, constants, opset=11, ir_version=6), tmp_path / "model.onnx")
    (tmp_path / "data").mkdir()
    for i in range(40):
        np.save(tmp_path / "data" / f"{i:02}.npy", normal(rng, 1, 1, 64))
    report = onnxq.quantize(tmp_path / "model.onnx", tmp_path / "data", tmp_path / "out.onnx", effort="fast")
    reasons = {group.op_type: (len(group.names), group.reason) for group in report.floats}
    assert reasons["MatMul"] == (2, "int8 takes 1.20x the time of float on this machine")
    assert reasons["Sub"] == (1, "the runtime has no integer kernel for Sub")
    kinds = [
        each.data_type for each in onnx.load(tmp_path / "out.onnx").graph.initializer if each.dims == [64, 64]
    ]
    assert kinds == [onnx.TensorProto.FLOAT16] * 2
