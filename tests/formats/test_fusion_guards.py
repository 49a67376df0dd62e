"""The runtime does not rewrite guarded nodes to slower or less accurate ones."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import onnxq
from onnxq.formats.fusion_guards import guard_fusions
from onnxq.graph.shapes import infer_shapes
from onnxq.runtime.sessions import open_session
from tests.conftest import normal, parse

WEIGHTS = {
    "Conv(d, w, b)": (16, 16, 1, 1),
    "ConvTranspose(d, w, b)": (16, 16, 1, 1),
    "Gemm(d, w, b)": (16, 16),
}


def between(operator, behind, rng):
    shape = WEIGHTS[operator]
    rows = "1,16,8,8" if len(shape) == 4 else "5,16"
    text = f"""g (float[{rows}] x) => (float[{rows}] y, float[{rows}] u) {{
        q = QuantizeLinear(x, s, zp) d = DequantizeLinear(q, s, zp) c = {operator} {behind}
        y = DequantizeLinear(q2, s2, zp) }}"""
    weight = normal(rng, *shape)
    weight[0] *= 50  # one scale for all channels ruins the others
    floats = {"s": np.float32(0.02), "s2": np.float32(0.1), "lo": np.float32(0), "hi": np.float32(6)}
    constants = floats | {"zp": np.uint8(128), "w": weight, "b": normal(rng, 16)}
    model = parse(text, {name: np.asarray(value) for name, value in constants.items()})
    return ir.from_proto(model), normal(rng, *map(int, rows.split(",")))


def gap(model, x):
    """Largest difference between the file optimized and as written."""
    found = []
    for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
        options = ort.SessionOptions()
        options.graph_optimization_level, options.log_severity_level = level, 4
        session = ort.InferenceSession(
            ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found.append(session.run(["y"], {"x": x})[0])
    return float(np.abs(found[0] - found[1]).max())


BEHIND = [
    "q2 = QuantizeLinear(c, s2, zp) u = Neg(x)",
    "z = Relu(c) q2 = QuantizeLinear(z, s2, zp) u = Neg(x)",
    "z = Clip(c, lo, hi) q2 = QuantizeLinear(z, s2, zp) u = Neg(x)",
    "z = Relu(c) q2 = QuantizeLinear(z, s2, zp) u = Neg(z)",
    "q2 = QuantizeLinear(c, s2, zp) u = Neg(c)",
    "z = Relu(c) q2 = QuantizeLinear(z, s2, zp) u = Neg(c)",
]


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("operator", list(WEIGHTS))
def test_a_guarded_node_computes_as_the_file_says(operator, behind, rng):
    model, x = between(operator, behind, rng)
    guard_fusions(model)
    assert gap(model, x) <= 0.1 + 1e-5  # one step


def test_without_a_guard_the_runtime_quantizes_the_weights(rng):
    model, x = between("Conv(d, w, b)", BEHIND[1], rng)
    assert gap(model, x) > 0.5
    assert guard_fusions(model)
    assert not guard_fusions(model)


def test_an_excluded_convolution_stays_as_exact_as_float(tmp_path, rng):
    text = """g (float[1,16,8,8] x) => (float[1,16,8,8] y) {
        a = Conv(x, w0) b = Relu(a) c = Conv(b, w1) d = Relu(c) y = Conv(d, w2) }"""
    weights = {f"w{i}": normal(rng, 16, 16, 1, 1) / 4 for i in range(3)}
    weights["w1"][0] *= 50
    weights["w2"][:, 0] /= 50
    onnx.save(parse(text, weights), tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    for i in range(16):
        np.save(tmp_path / "calib" / f"{i}.npy", normal(rng, 1, 16, 8, 8))
    model = onnx.load(tmp_path / "model.onnx")
    model.graph.node[2].name = "middle"
    onnx.save(model, tmp_path / "model.onnx")
    report = onnxq.quantize(
        tmp_path / "model.onnx",
        tmp_path / "calib",
        tmp_path / "out.onnx",
        exclude=("middle",),
        skip_slow_nodes=False,
        effort=onnxq.Effort.FAST,
    )
    assert report.kernels.counts.get("QLinearConv") == 2
    assert abs(report.outputs.optimized_db - report.outputs.unoptimized_db) < 3


POOLED = {  # nodes between the pool and the Q, and whether the runtime would move the Q
    "q = QuantizeLinear(p, s, zp) u = Neg(x)": 1,
    "v = Transpose<perm = [0, 2, 3, 1]>(p) q = QuantizeLinear(v, s, zp) u = Neg(x)": 1,
    "q = QuantizeLinear(p, s, zp) u = Neg(p)": 0,
}


def pooled(behind, rng, before="p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)"):
    text = f"""g (float[1,16,8,8] x) => (float[1,a,b,c] y, float[1,16,d,e] u) {{
        k = Conv(x, w) r = Relu(k) {before} {behind} y = DequantizeLinear(q, s, zp) }}"""
    constants = {"s": np.float32(0.05), "zp": np.uint8(0), "w": normal(rng, 16, 16, 3, 3)}
    return ir.from_proto(parse(text, {name: np.asarray(value) for name, value in constants.items()}))


def kernels_of(model, folder):
    """The operators of the runtime's optimized graph."""
    open_session(model, save_optimized=folder / "runs.onnx")
    return {node.op_type for node in onnx.load(folder / "runs.onnx", load_external_data=False).graph.node}


def pools_on_integers(model, folder):
    """Number of MaxPools in the runtime's graph that read quantized values."""
    open_session(model, save_optimized=folder / "runs.onnx")
    nodes = onnx.load(folder / "runs.onnx", load_external_data=False).graph.node
    quantized = {name for node in nodes if node.op_type == "QuantizeLinear" for name in node.output}
    return sum(node.op_type == "MaxPool" and node.input[0] in quantized for node in nodes)


@pytest.mark.parametrize(("behind", "moves"), POOLED.items())
def test_a_float_pool_stays_before_its_quantization(behind, moves, tmp_path, rng):
    model = pooled(behind, rng)
    assert pools_on_integers(model, tmp_path) == moves
    before = ir.from_proto(ir.to_proto(model))
    assert guard_fusions(model) == bool(moves)
    assert pools_on_integers(model, tmp_path) == 0
    x = normal(rng, 1, 16, 8, 8)
    for ours, theirs in zip(
        *(open_session(each, optimize=False).run(None, {"x": x}) for each in (model, before)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_pool_on_integers_by_plan_is_left_alone(rng):
    between_integers = (
        "i = QuantizeLinear(r, s, zp) d = DequantizeLinear(i, s, zp) p = MaxPool<kernel_shape = [2, 2]>(d)"
    )
    assert not guard_fusions(pooled("q = QuantizeLinear(p, s, zp) u = Neg(p)", rng, between_integers))
    assert not guard_fusions(pooled("q = QuantizeLinear(p, s, zp) u = Neg(x)", rng, between_integers))


@pytest.mark.parametrize("order", ["m, b", "b, m"])
@pytest.mark.parametrize("rows", ["1,1", "1,32", "4,32", "2,3,5"])
def test_a_product_of_static_shape_runs_on_integers(rows, order, tmp_path, rng):
    """The runtime would make it a float Gemm between Reshapes, and widen its weights in every run.

    With 24 channels, ONNX Runtime 1.23 computes wrong values for 32 rows on CPUs with AMX.
    """
    text = f"""g (float[{rows},16] x) => (float[{rows},40] y) {{
        q = QuantizeLinear(x, s, zp) d = DequantizeLinear(q, s, zp) v = DequantizeLinear<axis=1>(w, ws, wz)
        m = MatMul(d, v) y = Add({order}) }}"""
    weights = {
        "w": rng.integers(-60, 61, (16, 40)).astype(np.int8),
        "ws": np.full(40, 0.01, np.float32),
        "wz": np.zeros(40, np.int8),
    }
    proto = parse(text, weights | {"s": np.float32(0.02), "zp": np.uint8(128), "b": normal(rng, 40)})
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    x = normal(rng, *map(int, rows.split(",")), 16)
    before = open_session(model).run(None, {"x": x})[0]
    assert "Gemm" in kernels_of(model, tmp_path)  # otherwise the guard is obsolete
    assert guard_fusions(model)
    assert not guard_fusions(model)
    assert "b" not in model.graph.initializers  # the runtime warns of unused ones whenever it loads a file
    assert {"Gemm", "DequantizeLinear"}.isdisjoint(kernels_of(model, tmp_path))
    np.testing.assert_allclose(open_session(model).run(None, {"x": x})[0], before, atol=1e-5)


def test_a_product_with_one_row_of_weights(tmp_path, rng):
    """A MatMul by a vector has no channels."""
    text = (
        "g (float[5,16] x) => (float[5] y) { a = MatMul(x, w0) r = Relu(a) m = MatMul(r, w1) y = Add(m, b) }"
    )
    onnx.save(
        parse(text, {"w0": normal(rng, 16, 16), "w1": normal(rng, 16), "b": normal(rng, 1)}),
        tmp_path / "model.onnx",
    )
    (tmp_path / "calib").mkdir()
    for i in range(16):
        np.save(tmp_path / "calib" / f"{i}.npy", normal(rng, 5, 16))
    report = onnxq.quantize(
        tmp_path / "model.onnx", tmp_path / "calib", tmp_path / "out.onnx", skip_slow_nodes=False
    )
    assert report.outputs.sqnr_db > 25


def test_a_body_may_read_a_pool_of_integers(rng):
    """Without the guard the runtime ends the process: this test cannot fail, only stop."""
    text = """g (float[1,4,6,6] x, bool c) => (float[1,4,3,3] y) {
        q = QuantizeLinear(x, s, zp) d = DequantizeLinear(q, s, zp)
        p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(d)
        y = If(c)<then_branch = t () => (float[1,4,3,3] a) { a = Relu(p) },
            else_branch = e () => (float[1,4,3,3] b) { b = Tanh(p) }> }"""
    model = ir.from_proto(parse(text, {"s": np.float32(0.02), "zp": np.uint8(128)}))
    infer_shapes(model)
    pool = next(node for node in model.graph if node.op_type == "MaxPool")
    assert guard_fusions(model)
    assert {use.node.op_type for use in pool.outputs[0].uses()} == {"LeakyRelu"}
    open_session(model).run(None, {"x": normal(rng, 1, 4, 6, 6), "c": np.array(True)})


AVERAGES = {
    "dilations": ("dilations=[2,2]", 19),
    "counts": ("strides=[2,2], ceil_mode=1, count_include_pad=1", 17),
}


@pytest.mark.parametrize(
    "behind",
    [
        "q2 = QuantizeLinear(c, s, zp)",
        "r = Relu(c) t = Transpose<perm=[0,1,3,2]>(r) q2 = QuantizeLinear(t, s, zp)",
    ],
)
@pytest.mark.parametrize("form", list(AVERAGES))
def test_an_average_that_integers_compute_otherwise_stays_float(form, behind, rng):
    attributes, opset = AVERAGES[form]
    text = f"""g (float[1,4,7,7] x) => (float y) {{ q = QuantizeLinear(x, s, zp) d = DequantizeLinear(q, s, zp)
        c = AveragePool<kernel_shape=[2,2], {attributes}>(d) {behind} y = DequantizeLinear(q2, s, zp) }}"""
    model = parse(text, {"s": np.float32(0.02), "zp": np.uint8(128)}, opset=opset)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    x = normal(rng, 1, 4, 7, 7)
    model = ir.from_proto(model)
    assert guard_fusions(model)
    assert gap(model, x) < 0.03


def test_another_average_is_not_guarded():
    text = """g (float[1,4,8,8] x) => (float y) { q = QuantizeLinear(x, s, zp) d = DequantizeLinear(q, s, zp)
        c = AveragePool<kernel_shape=[2,2]>(d) q2 = QuantizeLinear(c, s, zp) y = DequantizeLinear(q2, s, zp) }"""
    assert not guard_fusions(ir.from_proto(parse(text, {"s": np.float32(0.02), "zp": np.uint8(128)})))
