"""Placement by measured times; no test depends on how long anything takes."""

import onnx
import pytest

import onnxq
from onnxq.cost.model import Costs, Line
from onnxq.cost.placement import place
from onnxq.graph.macs import concrete_shapes
from onnxq.normalize.passes import normalize
from onnxq.pipeline import calibrate
from onnxq.plan.plan import make_plan
from onnxq.search import measured_placement as measured
from onnxq.search.measured_placement import _claimed, _conversions
from tests.conftest import CNN, SAMPLES, normal, parse, to_ir

PAIR = "g (float[1,8,64,64] x) => (float[1,8,64,64] y) { a = Conv(x, w0) b = Conv(a, w1) y = Conv(b, w2) }"


@pytest.fixture
def chain(rng):
    return normalize(to_ir(parse(PAIR, {f"w{i}": normal(rng, 8, 8, 1, 1) for i in range(3)})))


def placed(model, nodes, conversion):
    plan = make_plan(model)
    costs = Costs(
        {}, 8, dict(zip(plan.nodes, nodes, strict=True)), Line(conversion, 0.0), Line(conversion, 0.0)
    )
    return [
        list(plan.nodes).index(name) for name in place(plan, concrete_shapes(model, None), [costs]).floats
    ]


def test_a_node_that_is_slower_in_int8_stays_float_and_conversions_count(chain):
    fast, slow = (1e5, 6e5), (3e5, 1e5)
    assert placed(chain, [fast, fast, slow], 1e4) == [2]
    assert placed(chain, [fast, slow, fast], 1e4) == [1]
    assert placed(chain, [fast, slow, fast], 2e5) == []  # two conversions more than it saves
    assert placed(chain, [slow, fast, slow], 6e5) == [0, 1, 2]


def test_each_time_belongs_to_one_node(rng):
    text = """g (float[1,8,4,4] x) => (float[1,8,4,4] y) {
        a = Conv(x, w0)  r = Relu(a)  b = Conv(r, w1)  s = Add(b, r)  t = Relu(s)  y = Tanh(t) }"""
    model = normalize(to_ir(parse(text, {f"w{i}": normal(rng, 8, 8, 1, 1) for i in range(2)})))
    names = {node.outputs[0].name: node.name for node in model.graph}
    # the runtime names a convolution with what it took in after the last of it; Tanh kept its name
    found = _claimed(model.graph, {"r": 0.003, "t": 0.005, names["y"]: 0.002})
    assert found == {names["a"]: 2000.0, names["b"]: 4000.0, names["y"]: 1000.0}


def test_conversions_are_timed():
    assert all(line.call >= 0 and line.element > 0 for line in _conversions())


@pytest.mark.parametrize("kept", ["all int8", "as nodes were timed", None])
def test_the_fastest_file_is_kept(kept, tmp_path, monkeypatch):
    third = {}

    def timed(inputs, quantized, feeds):  # the last convolution counts as slower on integers
        anchors = [name for name, planned in inputs.plan.nodes.items() if planned.node.op_type == "Conv"]
        third["name"] = anchors[-1]
        return {name: (4e5, 2e5) if name == anchors[-1] else (1e5, 2e5) for name in inputs.plan.nodes}

    order = ["all int8", "as nodes were timed"]
    times = [10.0, *(5.0 if name == kept else 20.0 for name in order), 30.0]
    monkeypatch.setattr(measured, "_node_ns", timed)
    monkeypatch.setattr(measured, "_conversions", lambda: (Line(0, 0), Line(0, 0)))
    monkeypatch.setattr(measured, "medians_ms", lambda paths, *_, **__: times[: len(paths)])
    report = onnxq.quantize(CNN, SAMPLES / "calib", tmp_path / "out.onnx", measure=True)
    assert [point.name for point in report.frontier if point.kept] == ([] if kept is None else [kept])
    slow = [name for group in report.floats if "for speed" in group.reason for name in group.names]
    written = onnx.load(tmp_path / "out.onnx")
    if kept == "all int8":
        assert slow == []
    elif kept is None:
        assert report.kernels.model_share == 0
        assert "on this machine" in " ".join(report.warnings)
        assert not any(node.op_type == "QuantizeLinear" for node in written.graph.node)
    else:
        assert third["name"] in slow
        assert 0 < report.kernels.model_share < 1


def test_the_command_measures_for_real(tmp_path):
    report = onnxq.quantize(
        CNN, SAMPLES / "calib", tmp_path / "out.onnx", measure=True, effort=onnxq.Effort.FAST
    )
    assert "all int8" in [point.name for point in report.frontier]
    assert all(point.latency > 0 and 0 < point.size < 1 for point in report.frontier)
    assert sum(point.kept for point in report.frontier) <= 1


def test_wrong_combinations_of_options_are_errors(tmp_path):
    with pytest.raises(onnxq.OnnxqError, match="choose one"):
        onnxq.quantize(CNN, SAMPLES / "calib", tmp_path / "out.onnx", measure=True, skip_slow_nodes=False)
    calibrate(onnxq.QuantizeOptions(CNN, SAMPLES / "calib"), tmp_path / "stats.npz")
    with pytest.raises(
        onnxq.OnnxqError, match="--measure plans static quantization, and the mode is dynamic"
    ):
        onnxq.quantize(CNN, SAMPLES / "calib", tmp_path / "out.onnx", measure=True, mode=onnxq.Mode.DYNAMIC)
    with pytest.raises(onnxq.OnnxqError, match="--measure runs samples"):
        onnxq.quantize(CNN, None, tmp_path / "out.onnx", measure=True, stats=(tmp_path / "stats.npz",))
    assert not (tmp_path / "out.onnx").exists()
