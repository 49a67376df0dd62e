"""Subgraphs of newer exporters are rewritten to the forms that the runtime fuses into one kernel."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxq.normalize.passes import normalize
from onnxq.options import QuantizeOptions
from onnxq.pipeline import quantize
from tests.conftest import normal, parse, run

HEAD = "g (float[2,5,16] v) => (float[2,5,16] y) { x = Abs(v) "
SCALARS = {
    name: np.float32(value)
    for name, value in {
        "root": 2**0.5, "one": 1, "half": 0.5, "third": 0.3, "two": 2, "three": 3,
        "c": 0.044715, "k": 0.7978846, "eps": 1e-6,
    }.items()
} | {"unit": np.ones((1, 1, 1), np.float32)} | {"last": np.array([-1]), "middle": np.array([1])}  # fmt: skip
CUBIC = "p = Pow(x, three) q = Mul(c, p) r = Add(x, q) s = Mul(k, r) e = Tanh(s) "
MEAN = "p = Pow(x, two) m = ReduceMean(p, last) a = Add(m, eps) s = Sqrt(a) r = Reciprocal(s) "
FUSED = {
    "Gelu": "d = Div(x, root) e = Erf(d) a = Add(e, one) h = Mul(half, a) y = Mul(x, h) }",
    "Gelu, operands turned": "d = Div(x, root) e = Erf(d) a = Add(one, e) h = Mul(a, half) y = Mul(h, x) }",
    "FastGelu": CUBIC + "a = Add(e, one) h = Mul(half, a) z = Mul(x, h) y = Neg(z) }",
    "FastGelu, a number with axes": CUBIC + "a = Add(unit, e) h = Mul(half, x) z = Mul(h, a) y = Neg(z) }",
    "SimplifiedLayerNormalization": MEAN + "n = Mul(x, r) y = Mul(w, n) }",
    "SimplifiedLayerNormalization, operands turned": MEAN + "n = Mul(r, x) y = Mul(n, w) }",
}
OTHER = {
    "a third": "d = Div(x, root) e = Erf(d) a = Add(e, one) h = Mul(third, a) y = Mul(x, h) }",
    "taken twice": "d = Div(x, root) e = Erf(d) a = Add(e, one) h = Mul(half, a) z = Mul(x, h) "
    "y = Add(z, h) }",
    "a row": "d = Div(x, root) e = Erf(d) a = Add(e, one) h = Mul(half, a) y = Mul(w, h) }",
    "a mean of others": "p = Pow(x, two) m = ReduceMean(p, middle) a = Add(m, eps) s = Sqrt(a) "
    "r = Reciprocal(s) n = Mul(x, r) y = Mul(w, n) }",
    "a cube": "p = Pow(x, three) m = ReduceMean(p, last) a = Add(m, eps) b = Abs(a) s = Sqrt(b) "
    "r = Reciprocal(s) n = Mul(x, r) y = Mul(w, n) }",
    "a root of others": MEAN + "o = Neg(x) n = Mul(o, r) y = Mul(w, n) }",
}


def made(text, rng, **constants):
    return parse(HEAD + text, SCALARS | {"w": normal(rng, 16)} | constants, opset=18)


def in_the_runtime(model, tmp_path):
    """Operator types of the runtime's optimized graph."""
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]


def normalized(model):
    return ir.to_proto(normalize(ir.from_proto(model)))


@pytest.mark.parametrize("name", FUSED)
def test_what_the_runtime_has_one_kernel_for(name, rng, tmp_path):
    model = made(FUSED[name], rng)
    kernel = name.split(",")[0]
    x = normal(rng, 2, 5, 16)
    after = normalized(model)
    assert kernel not in in_the_runtime(model, tmp_path)  # else the rule is not needed any more
    assert kernel in in_the_runtime(after, tmp_path)
    np.testing.assert_allclose(run(after, {"v": x})[0], run(model, {"v": x})[0], atol=2e-6)


@pytest.mark.parametrize("text", OTHER.values(), ids=list(OTHER))
def test_what_only_looks_like_it_stays(text, rng):
    model = made(text, rng)
    x = normal(rng, 2, 5, 16)
    after = normalized(model)
    assert sorted(node.op_type for node in after.graph.node) == sorted(
        node.op_type for node in model.graph.node
    )
    np.testing.assert_allclose(run(after, {"v": x})[0], run(model, {"v": x})[0], atol=1e-6)


def guarded(low, scores):
    text = f"""g (float[2,5,16] x, bool[5,5] keep) => (float[2,5,16] y) {{
        t = Transpose<perm=[0,2,1]>(x) {scores}
        p = Softmax(z) n = IsNaN(p) q = Where(n, zero, p) y = MatMul(q, x) }}"""
    return parse(text, {"zero": np.float32(0), "low": np.float32(low), "half": np.float32(0.5)})


@pytest.mark.parametrize(
    ("low", "scores", "guards"),
    [
        (np.finfo(np.float32).min, "s = MatMul(x, t) m = Where(keep, zero, low) z = Add(s, m)", 0),
        (-1e4, "s = MatMul(x, t) u = Mul(s, half) m = Where(keep, zero, low) z = Add(m, u)", 0),
        (-1e4, "z = MatMul(x, t)", 0),
        (-np.inf, "s = MatMul(x, t) m = Where(keep, zero, low) z = Add(s, m)", 1),
        (-1e4, "s = MatMul(x, t) c = Cast<to=1>(keep) m = Log(c) z = Add(s, m)", 1),
        (-1e4, "s = MatMul(x, t) z = Where(keep, s, low)", 1),
    ],
)
def test_no_guard_where_nothing_is_infinite(low, scores, guards, rng):
    """All keys of the third query are masked: a row of -inf gives NaN, the lowest number does not."""
    model = guarded(low, scores)
    keep = rng.random((5, 5)) < 0.6
    keep[2] = False
    feeds = {"x": normal(rng, 2, 5, 16), "keep": keep}
    after = normalized(model)
    assert [node.op_type for node in after.graph.node].count("IsNaN") == guards
    expected, found = run(model, feeds)[0], run(after, feeds)[0]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("end", ["m = Mul(x, a) g = Mul(m, half)", "m = Mul(x, half) g = Mul(a, m)"])
def test_the_half_of_a_gelu_is_not_folded_into_the_convolution_behind(end, rng, tmp_path):
    text = f"""g (float[1,8,6,6] v) => (float[1,8,6,6] y) {{
        x = Conv(v, w1) d = Div(x, root) e = Erf(d) a = Add(e, one) {end} y = Conv(g, w2) }}"""
    model = parse(text, SCALARS | {"w1": normal(rng, 8, 8, 1, 1), "w2": normal(rng, 8, 8, 1, 1)})
    assert in_the_runtime(normalized(model), tmp_path).count("Gelu") == 1


@pytest.mark.parametrize(
    "end",
    ["m = Mul(g, a) z = Mul(m, half)", "m = Mul(g, half) z = Mul(a, m)", "h = Mul(half, a) z = Mul(g, h)"],
)
@pytest.mark.parametrize("standard", [False, True])
def test_a_gelu_between_integer_convolutions_is_one_operator(end, standard, rng, tmp_path):
    """Behind a DequantizeLinear the runtime does not fuse it: each of the two consumers gets a copy."""
    text = f"""g (float[N,8,6,6] v) => (float[N,8,6,6] y) {{
        g = Conv<pads=[1,1,1,1]>(v, w1) d = Div(g, root) e = Erf(d) a = Add(e, one)
        {end} y = Conv<pads=[1,1,1,1]>(z, w2) }}"""
    onnx.save(
        parse(text, SCALARS | {"w1": 0.3 * normal(rng, 8, 8, 3, 3), "w2": 0.3 * normal(rng, 8, 8, 3, 3)}),
        tmp_path / "model.onnx",
    )
    (tmp_path / "calib").mkdir()
    for i in range(16):
        np.save(tmp_path / "calib" / f"{i}.npy", normal(rng, 1, 8, 6, 6))
    options = QuantizeOptions(
        tmp_path / "model.onnx",
        tmp_path / "calib",
        tmp_path / "out.onnx",
        skip_slow_nodes=False,
        standard=standard,
    )
    report = quantize(options)
    assert report.kernels.counts["QLinearConv"] == 2
    assert report.kernels.counts["DequantizeLinear"] == 2 + standard
    assert report.kernels.counts.get("FastGelu", 0) == (not standard)
    assert report.outputs.sqnr_db > 30


PLACES = {
    "places": np.array([2, 3]),
    "rows": np.array([-2]),
    "eps": np.float32(1e-3),
    "one": np.float32(1),
    "two": np.float32(2),
    "four": np.float32(4),
}
VARIANCE = (
    "m = ReduceMean(x, places) c = Sub(x, m) q = Pow(c, two) v = ReduceMean(q, places) a "
    "= Add(v, eps) s = Sqrt(a) "
)
NORMS = {
    "divided": VARIANCE + "y = Div(c, s)",
    "times the inverse": VARIANCE + "i = Div(one, s) y = Mul(c, i)",
    "times the reciprocal": VARIANCE + "i = Reciprocal(s) y = Mul(i, c)",
    "a product for the square": VARIANCE.replace("Pow(c, two)", "Mul(c, c)") + "y = Div(c, s)",
}
NO_NORMS = {
    "over rows": VARIANCE.replace("ReduceMean(q, places)", "ReduceMean(q, rows)") + "y = Div(c, s)",
    "a mean of others": VARIANCE.replace("ReduceMean(x, places)", "ReduceMean(w, places)") + "y = Div(c, s)",
    "the root of others": VARIANCE + "i = Div(two, s) y = Mul(c, i)",
    "not what is divided": VARIANCE + "y = Div(x, s)",
    "a fourth power": VARIANCE.replace("Pow(c, two)", "Pow(c, four)") + "y = Div(c, s)",
}


def norm_over_places(text, rng):
    text = f"g (float[2,3,5,7] x) => (float[2,3,5,7] y) {{ {text} }}"
    return parse(
        text,
        {name: array for name, array in PLACES.items() if name in text} | {"w": normal(rng, 2, 3, 5, 7)},
        opset=18,
    )


@pytest.mark.parametrize("text", NORMS.values(), ids=list(NORMS))
def test_a_norm_over_an_image_is_one_kernel(text, rng):
    model, x = norm_over_places(text, rng), 3 + normal(rng, 2, 3, 5, 7)
    after = normalized(model)
    assert [node.op_type for node in after.graph.node] == ["InstanceNormalization"]
    np.testing.assert_allclose(run(after, {"x": x})[0], run(model, {"x": x})[0], atol=1e-5)


@pytest.mark.parametrize("text", NO_NORMS.values(), ids=list(NO_NORMS))
def test_what_only_looks_like_a_norm_over_an_image_stays(text, rng):
    model, x = norm_over_places(text, rng), 3 + normal(rng, 2, 3, 5, 7)
    after = normalized(model)
    assert "InstanceNormalization" not in [node.op_type for node in after.graph.node]
    np.testing.assert_allclose(run(after, {"x": x})[0], run(model, {"x": x})[0], rtol=1e-4, atol=1e-5)


def test_a_norm_over_the_last_of_three_axes_stays_for_the_runtime(rng, tmp_path):
    model = parse(
        "g (float[2,5,16] v) => (float[2,5,16] y) { x = Abs(v) m = ReduceMean(x, last) "
        "c = Sub(x, m) q = Pow(c, two) u = ReduceMean(q, last)"
        " a = Add(u, eps) s = Sqrt(a) d = Div(c, s) e = Mul(d, w) y = Add(e, w) }",
        {"last": np.array([-1]), "two": np.float32(2), "eps": np.float32(1e-5), "w": normal(rng, 16)},
        opset=18,
    )  # fmt: skip
    assert "LayerNormalization" in in_the_runtime(normalized(model), tmp_path)
