"""A written file keeps names, outputs and other uses of shared constants, and computes the right numbers."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxq
from onnxq.cost.target import find_target
from onnxq.options import Target
from onnxq.plan.plan import Selection
from onnxq.quantization.weights import WeightOptions
from onnxq.runtime.sessions import open_session
from onnxq.techniques.saturation import kernel_order, saturating_pairs
from onnxq.transforms.registry import with_techniques
from tests.conftest import Quantized, normal, parse

HEAD = "g (float[N,4,8,8] x) => "
both = pytest.mark.parametrize("qoperator", [False, True], ids=["qdq", "qoperator"])


@pytest.fixture
def weights(rng):
    return {"w": normal(rng, 4, 4, 3, 3) / 4, "v": normal(rng, 4, 4, 1, 1), "b": normal(rng, 4)}


def feeds(rng, count=3):
    return [{"x": normal(rng, 1, 4, 8, 8)} for _ in range(count)]


def conv(name, x="x", w="w", extra=""):
    return f"{name} = Conv<pads=[1,1,1,1]>({x}, {w}{extra}) "


@both
@pytest.mark.parametrize(
    "text",
    [
        "(float[N,4,P,Q] y) { " + conv("y") + "}",
        "(float[N,4,P,Q] y, float[N,4,P,Q] a) { " + conv("a") + "y = Conv(a, v) }",
        "(float[N,4,P,Q] y, float[N,4,P,Q] a) { " + conv("a") + "r = Relu(a) y = Conv(r, v) }",
        "(float[N,4,P,Q] a, float[N,4,P,Q] r, float[N,4,P,Q] y) { "
        + conv("a")
        + "r = Relu(a) y = Conv(r, v) }",
        "(float[N,4,P,Q] y) { " + conv("a") + "t = Tanh(a) c = Conv(a, v) y = Add(t, c) }",
        "(float[N,4,P,Q] y) { " + conv("a", extra=", b") + "y = Conv(a, v, b) }",
        "(float[N,4,P,Q] y) { " + conv("a") + conv("y", "a") + "}",
        "(float[N,4,P,Q] y, float[4,4,3,3] f) { " + conv("a") + "y = Conv(a, v) f = Mul(w, w) }",
        "(float[N,4,P,Q] y) { " + conv("a") + "c = Add(a, a) y = Conv(c, v) }",
        "(float[N,4,P,Q] y) { " + conv("a") + "c = Add(a, k) y = Conv(c, v) }",
        "(float[N,4,P,Q] y) { " + conv("a") + "m = MaxPool<kernel_shape=[2,2]>(a) y = Conv(m, v) }",
    ],
)  # fmt: skip
def test_names_and_numbers(rng, weights, text, qoperator):
    used = weights | {"k": normal(rng, 1, 4, 1, 1)}
    words = text.replace("(", " ").replace(",", " ").replace(")", " ").split()
    model = parse(HEAD + text, {name: array for name, array in used.items() if name in words})
    quantized = Quantized(model, feeds(rng), qoperator=qoperator)
    session, original = open_session(quantized.model), open_session(quantized.float)
    assert [o.name for o in session.get_outputs()] == [o.name for o in original.get_outputs()]
    assert [i.name for i in session.get_inputs()] == ["x"]
    error, difference = quantized.errors()
    assert error < 0.06
    assert difference < 0.015


def test_an_excluded_node_keeps_the_float_weight(rng, weights):
    text = HEAD + "(float[N,4,P,Q] y) { " + conv("a") + conv("y", "a") + "}"
    model = parse(text, {"w": weights["w"]})
    names = list(Quantized(model, feeds(rng)).plan.nodes)
    half = Quantized(model, feeds(rng), selection=Selection(exclude=(names[1],)))
    kept = next(node for node in half.model.graph if node.name == names[1])
    assert np.array_equal(kept.inputs[1].const_value.numpy(), weights["w"])


@both
def test_names_that_are_taken_already(rng, weights, qoperator):
    text = (
        HEAD
        + "(float[N,4,P,Q] y) { "
        + conv("a")
        + "a_quantized = Relu(a) a_scale = Tanh(a_quantized) y = Conv(a_quantized, w_quantized) }"
    )
    model = parse(text, {"w": weights["w"], "w_quantized": weights["v"]})
    assert Quantized(model, feeds(rng), qoperator=qoperator).errors()[0] < 0.06


def test_one_gemm_weight_used_both_ways(rng):
    text = "g (float[3,6] x) => (float[3,6] y) { a = Gemm(x, w) y = Gemm<transB=1>(a, w) }"
    quantized = Quantized(parse(text, {"w": normal(rng, 6, 6)}), [{"x": normal(rng, 3, 6)} for _ in range(4)])
    assert quantized.errors()[0] < 0.03


def test_a_shared_bias_gets_the_scale_of_each_user(rng, weights):
    text = HEAD + "(float[N,4,P,Q] y) { " + conv("a", extra=", b") + "y = Conv(a, v, b) }"
    quantized = Quantized(parse(text, weights), feeds(rng))
    scales = [quantized.parameters.constants[name, 2].params.scale for name in quantized.plan.nodes]
    assert not np.array_equal(*scales)
    assert quantized.errors()[0] < 0.03


def test_zero_channels_and_large_biases(rng, weights):
    w, b = weights["w"].copy(), weights["b"].copy()
    w[0], w[1], b[0], b[1] = 0, w[1] * 1e-7, 0.3, 100
    quantized = Quantized(
        parse(HEAD + "(float[N,4,P,Q] y) { " + conv("y", extra=", b") + "}", {"w": w, "b": b}), feeds(rng)
    )
    (feed,) = feeds(rng, 1)
    out, want = (open_session(m).run(None, feed)[0] for m in (quantized.model, quantized.float))
    assert np.abs(out - want).max() < 0.5
    for quantized_constant in quantized.parameters.constants.values():
        assert np.isfinite(quantized_constant.params.scale).all()
        assert (quantized_constant.params.scale > 0).all()


def test_written_weights_cannot_saturate_unless_the_target_allows_it(rng):
    text = "g (float[3,64] x) => (float[3,32] y) { y = MatMul(x, w) }"
    model = parse(text, {"w": rng.uniform(-1, 1, (64, 32)).astype(np.float32)})
    data = [{"x": normal(rng, 3, 64)}]
    for target, allowed in ((Target.PORTABLE, False), (Target.VNNI, True), (Target.ARM, True)):
        saturates = find_target(target).saturates
        quantized = Quantized(model, data, weights=WeightOptions(saturates=saturates))
        (weight,) = (c.stored for (_, index), c in quantized.parameters.constants.items() if index == 1)
        assert (saturating_pairs(kernel_order(weight, 1)) > 0) == allowed


def test_depthwise_weights_keep_their_range(rng):
    text = HEAD + "(float[N,4,P,Q] y) { y = Conv<group=4, pads=[1,1,1,1]>(x, w) }"
    quantized = Quantized(parse(text, {"w": normal(rng, 4, 1, 3, 3)}), feeds(rng))
    (weight,) = (c.stored for (_, index), c in quantized.parameters.constants.items() if index == 1)
    assert (np.abs(weight).max(axis=(1, 2, 3)) == 127).all()


@both
def test_per_tensor(rng, weights, qoperator):
    text = HEAD + "(float[N,4,P,Q] y) { " + conv("a", extra=", b") + "y = Conv(a, v) }"
    quantized = Quantized(
        parse(text, weights), feeds(rng), weights=WeightOptions(per_channel=False), qoperator=qoperator
    )
    assert all(
        c.params.axis is None or index == 2 for (_, index), c in quantized.parameters.constants.items()
    )
    assert quantized.errors()[0] < 0.1


def test_requantization_where_two_ranges_meet(rng, weights):
    text = HEAD + "(float[N,4,P,Q] y) { " + conv("a") + "r = Relu(a) c = Conv(r, v) y = Add(a, c) }"
    quantized = Quantized(parse(text, {k: weights[k] for k in "wv"}), feeds(rng))
    assert {"a", "r"} <= set(quantized.plan.tensors)
    assert quantized.errors()[0] < 0.06


def test_old_opset_that_cannot_be_lifted_uses_the_runtimes_own_qdq(rng, weights, monkeypatch):
    import onnx

    def refuse(*_):
        raise RuntimeError("no adapter")

    monkeypatch.setattr(onnx.version_converter, "convert_version", refuse)
    text = (
        "(float[N,4,P,Q] y) { "
        + conv("a", extra=", b")
        + "m = MaxPool<kernel_shape=[2,2]>(a) y = Conv(m, v) }"
    )
    quantized = Quantized(parse(HEAD + text, weights, opset=11, ir_version=6), feeds(rng))
    assert any("its integer kernel needs opset 12" in why.text for _, why in quantized.plan.floats.values())
    assert {node.domain for node in quantized.model.graph if "Linear" in node.op_type} == {"com.microsoft"}
    assert quantized.errors()[0] < 0.03


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N,4,8,8] x) => (float[N,4,P,Q] y) { y = Conv<pads=[1,1,1,1]>(x, w) }",
        "g (float[N,4,8,8] x) => (float[N,4,P,Q] y) { a = Conv<group=4>(x, d) y = Conv(a, v, b) }",
        "g (float[N,4,8,8] x) => (float[N,4,8,4] y) { p = MatMul(x, k) y = Add(c, p) }",
        "g (float[N,4,8,8] x) => (float[N,4,8,4] y) { y = MatMul(x, k) }",
    ],
)  # fmt: skip
def test_techniques_bring_the_output_closer(rng, text):
    every = {"w": (4, 4, 3, 3), "d": (4, 1, 3, 3), "v": (4, 4, 1, 1), "b": (4,), "k": (8, 4), "c": (4,)}
    words = text.replace("(", " ").replace(",", " ").replace(")", " ").split()
    model = parse(text, {name: normal(rng, *shape) for name, shape in every.items() if name in words})
    mix = normal(rng, 4, 2)
    data = []
    for _ in range(40):  # smooth along both axes and across channels, as real activations are
        field = np.cumsum(np.cumsum(normal(rng, 2, 8, 8), axis=1), axis=2)
        data.append({"x": np.einsum("ck,khw->chw", mix, field)[None].astype(np.float32)})
    plain = Quantized(model, data)
    better = Quantized(model, data, weights=with_techniques(WeightOptions(), ("gptq", "bias-correction")))
    assert weight_errors(better) < 0.8 * weight_errors(plain)


def weight_errors(quantized):
    """Summed squared error of the outputs with quantized weights and biases, but float activations."""
    model = quantized.model.clone()
    for node in model.graph:
        before = node.inputs[0].producer()
        if node.op_type == "DequantizeLinear" and before is not None:
            ir.convenience.replace_all_uses_with(
                node.outputs[0], before.inputs[0], replace_graph_outputs=True
            )
    sessions = [open_session(quantized.float), open_session(model, optimize=False)]
    total = 0.0
    for feed in quantized.feeds:
        want, have = (session.run(None, feed)[0] for session in sessions)
        total += float(np.square(want - have).sum())
    return total


def test_no_bias_overflows_however_far_a_method_clips(tmp_path, rng):
    """A channel of tiny weights with a large bias behind an activation that is mostly clipped."""
    w = normal(rng, 4, 4, 1, 1)
    w[1] *= 1e-7
    bias = np.float32([0, 50, 0, 0])
    onnx.save(
        parse(HEAD + "(float[N,4,P,Q] y) { y = Conv(x, w, b) }", {"w": w, "b": bias}), tmp_path / "m.onnx"
    )
    (tmp_path / "data").mkdir()
    for i in range(8):
        x = normal(rng, 1, 4, 8, 8)
        x[0, 0, 0, 0] = 1e4
        np.save(tmp_path / "data" / f"{i}.npy", x)
    options = {"method": onnxq.Method.PERCENTILE, "percentile": 90.0}
    onnxq.quantize(tmp_path / "m.onnx", tmp_path / "data", tmp_path / "q.onnx", **options)
    (y,) = open_session(tmp_path / "q.onnx").run(None, {"x": normal(rng, 1, 4, 8, 8)})
    assert np.abs(y[0, 1] - 50).max() < 0.5
