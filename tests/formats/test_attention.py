"""Attention becomes one operator and joint products one product, only if the outputs stay the same."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxq.formats.attention import fuse_attention
from onnxq.formats.joint_products import FEW_ROWS, JOINT, few_rows, join_products
from onnxq.graph.shapes import infer_shapes
from onnxq.modes.products import plan_products
from onnxq.options import Mode, QuantizeOptions
from onnxq.pipeline import quantize
from onnxq.plan.plan import Selection
from tests.conftest import SAMPLES, TRANSFORMER, normal, parse, run

BATCH, ROWS, COLUMNS, HEADS, SIZE = 2, 5, 7, 4, 8
HEAD = """g (float[batch,rows,32] q, float[batch,columns,32] k, float[batch,columns,32] v,
           float[batch,1,1,columns] m, float[batch,4,rows,columns] full)
           => (float[batch,rows,32] y, float u) {
    q4 = Reshape(q, by) qt = Transpose<perm=[0,2,1,3]>(q4) k4 = Reshape(k, by) v4 = Reshape(v, by)
    vt = Transpose<perm=[0,2,1,3]>(v4) """
ONCE = "kt = Transpose<perm=[0,2,3,1]>(k4) "
TWICE = "kh = Transpose<perm=[0,2,1,3]>(k4) kt = Transpose<perm=[0,1,3,2]>(kh) "
TAIL = (
    "a = MatMul(p, vt) at = Transpose<perm=[0,2,1,3]>(a) y = Reshape(at, whole) "
    "u = ReduceMax<keepdims=0>(m) }"
)
FUSED = {
    "no mask": ONCE + "s = MatMul(qt, kt) z = Div(s, root) p = Softmax<axis=-1>(z) ",
    "rows of a mask": ONCE + "s = MatMul(qt, kt) t = Div(s, root) z = Add(t, m) p = Softmax(z) ",
    "mask first, factor one": ONCE + "s = MatMul(qt, kt) z = Add(m, s) p = Softmax<axis=3>(z) ",
    "full mask, factors before": TWICE
    + "qs = Mul(qt, root) ks = Mul(root, kt) s = MatMul(qs, ks) z = Add(s, full) p = Softmax(z) ",
}
OTHER = {
    "softmax over heads": ONCE + "s = MatMul(qt, kt) p = Softmax<axis=1>(s) ",
    "scores taken twice": ONCE
    + "s = MatMul(qt, kt) p0 = Softmax(s) w = ReduceMin<keepdims=0>(s) p = Add(p0, w) ",
    "mask of rank 2": ONCE
    + "s = MatMul(qt, kt) f = ReduceMax<axes=[0,1], keepdims=0>(full) z = Add(s, f) p = Softmax(z) ",
    "one factor a head": ONCE + "s = MatMul(qt, kt) t = Mul(s, heads) p = Softmax(t) ",
    "factor behind the mask": ONCE + "s = MatMul(qt, kt) z = Add(s, m) t = Mul(z, root) p = Softmax(t) ",
    "a key taken twice": ONCE + "s = MatMul(qt, kt) z = Add(s, m) p = Softmax(z) w = Exp(kt) ",
    "a query of other rows": "kt = Transpose<perm=[0,2,3,1]>(k4) qr = Reshape(q, rows) "
    "qh = Transpose<perm=[0,2,1,3]>(qr) "
    "s = MatMul(qh, kt) p = Softmax(s) ",
}
CONSTANTS = {
    "by": np.array([0, -1, HEADS, SIZE]), "whole": np.array([0, 0, HEADS * SIZE]), "root": np.float32(1.7),
    "rows": np.array([-1, ROWS, HEADS, SIZE]),
    "heads": np.array([1, 2, 3, 4], np.float32).reshape(1, HEADS, 1, 1),
}  # fmt: skip


def attention(middle, *, opset=17):
    model = ir.from_proto(parse(HEAD + middle + TAIL, CONSTANTS, opset=opset))
    infer_shapes(model)
    return model


def feeds(rng, batch=BATCH):
    found = {
        name: normal(rng, batch, rows, HEADS * SIZE)
        for name, rows in (("q", ROWS), ("k", COLUMNS), ("v", COLUMNS))
    }
    mask = np.where(rng.random((batch, 1, 1, COLUMNS)) < 0.3, np.float32(-3.4e38), np.float32(0))
    return found | {"m": mask, "full": normal(rng, batch, HEADS, ROWS, COLUMNS)}


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("middle", FUSED.values(), ids=list(FUSED))
def test_attention_becomes_one_operator(middle, opset, rng):
    model = attention(middle, opset=opset)
    values = [feeds(rng), feeds(rng, batch=1)]
    before = [run(model, each)[0] for each in values]
    assert fuse_attention(model)
    operators = [node.op_type for node in model.graph]
    assert operators.count("MultiHeadAttention") == 1
    assert not {"Softmax", "MatMul", "Transpose"} & set(operators)
    for each, expected in zip(values, before, strict=True):
        np.testing.assert_allclose(run(model, each)[0], expected, atol=1e-5)


@pytest.mark.parametrize("middle", OTHER.values(), ids=list(OTHER))
def test_what_only_looks_like_attention_stays(middle):
    model = attention(middle)
    nodes = [node.name for node in model.graph]
    assert not fuse_attention(model)
    assert [node.name for node in model.graph] == nodes


def layers(count):
    """Layers of self-attention with projections and residual sums; few row counts can be inferred."""
    text = "g (float[batch,seq,32] x0, float[batch,1,1,seq] m) => (float[batch,seq,32] y) { "
    for i in range(count):
        for part in "qkv":
            text += (
                f"{part}m{i} = MatMul(x{i}, w{part}{i}) {part}{i} = Add({part}m{i}, b) {part}r{i} = "
                f"Reshape({part}{i}, by) "
            )
        text += (
            f"qt{i} = Transpose<perm=[0,2,1,3]>(qr{i}) kt{i} = Transpose<perm=[0,2,3,1]>(kr{i}) "
            f"vt{i} = Transpose<perm=[0,2,1,3]>(vr{i}) "
        )
        text += (
            f"s{i} = MatMul(qt{i}, kt{i}) z{i} = Add(s{i}, m) p{i} = Softmax(z{i}) a{i} = "
            f"MatMul(p{i}, vt{i}) "
        )
        text += (
            f"at{i} = Transpose<perm=[0,2,1,3]>(a{i}) h{i} = Reshape(at{i}, whole) x{i + 1} = "
            f"Add(h{i}, x{i}) "
        )
    rng = np.random.default_rng(0)
    weights = {f"w{part}{i}": normal(rng, 32, 32) / 5 for i in range(count) for part in "qkv"} | {
        "b": normal(rng, 32)
    }
    model = ir.from_proto(parse(text + f"y = Tanh(x{count}) }}", CONSTANTS | weights))
    infer_shapes(model)
    return model


def test_layers_share_one_mask(rng):
    """The operator broadcasts a mask over batch and heads, not over rows: one Expand serves all layers."""
    model = layers(3)
    values = {"x0": normal(rng, 2, 5, 32), "m": feeds(rng)["m"][..., :5]}
    before = run(model, values)[0]
    assert fuse_attention(model)
    assert [node.op_type for node in model.graph].count("MultiHeadAttention") == 3
    assert [node.op_type for node in model.graph].count("Expand") == 1
    np.testing.assert_allclose(run(model, values)[0], before, atol=1e-5)


def test_a_mask_is_shared_across_joined_products(tmp_path, rng):
    onnx.save(ir.to_proto(layers(3)), tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    for i in range(8):
        np.savez(
            tmp_path / "calib" / f"{i}.npz", x0=normal(rng, 1, 6, 32), m=np.zeros((1, 1, 1, 6), np.float32)
        )
    options = QuantizeOptions(
        tmp_path / "model.onnx", tmp_path / "calib", tmp_path / "out.onnx", mode=Mode.DYNAMIC
    )
    quantize(options)
    operators = [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node]
    assert (operators.count("MultiHeadAttention"), operators.count("Split"), operators.count("Expand")) == (
        3,
        3,
        1,
    )


def joinable(rng, biases):
    """Three products of the same integers: two with a scale a column, one with a single scale."""
    head = (
        "g (float[batch,6] x) => (float[batch,4] a, float[batch,8] b, float[batch,2] c) { q, "
        "s, z = DynamicQuantizeLinear(x) "
    )
    scales = {"ka": rng.random(4, np.float32), "kb": rng.random(8, np.float32), "kc": np.float32(0.5)}
    text, constants = head, dict(scales)
    for name, columns in (("a", 4), ("b", 8), ("c", 2)):
        bias = f", b{name}" if name in biases else ""
        text += f"{name} = com.microsoft.MatMulIntegerToFloat(q, w{name}, s, k{name}, z, z{name}{bias}) "
        constants[f"w{name}"] = rng.integers(-50, 50, (6, columns)).astype(np.int8)
        constants[f"z{name}"] = np.zeros_like(scales[f"k{name}"], np.int8)
        if bias:
            constants[f"b{name}"] = normal(rng, columns)
    model = parse(text + "}", constants)
    model.opset_import.add(domain="com.microsoft", version=1)
    model = ir.from_proto(model)
    for node in model.graph:
        node.name = f"{node.outputs[0].name}_node"
    return model


@pytest.mark.parametrize("biases", ["", "a", "abc"])
def test_products_of_one_activation_become_one(biases, rng):
    model = joinable(rng, biases)
    x = normal(rng, 3, 6)
    before = run(model, {"x": x})
    assert join_products(model)
    products = [node for node in model.graph if node.op_type == "MatMulIntegerToFloat"]
    assert [node.name for node in products] == [JOINT.join(["a_node", "b_node", "c_node"])]
    for expected, found in zip(before, run(model, {"x": x}), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("mode", [Mode.STATIC, Mode.DYNAMIC])
def test_a_transformer_of_short_sequences(mode, tmp_path):
    options = QuantizeOptions(
        TRANSFORMER, SAMPLES / "calib", tmp_path / "out.onnx", mode=mode, skip_slow_nodes=False
    )
    report = quantize(replace(options, details=True))
    nodes = onnx.load(tmp_path / "out.onnx").graph.node
    assert [node.op_type for node in nodes].count("MultiHeadAttention") == 2
    assert sum(JOINT in node.name for node in nodes if node.op_type == "MatMulIntegerToFloat") == 2
    assert report.kernels.integer_share == 1.0  # each of those that were joined is found again
    assert report.outputs.sqnr_db > 30
    assert all(layer.int8_ms is not None for layer in report.layers if layer.planned)


def test_neither_for_other_runtimes(tmp_path):
    options = QuantizeOptions(
        TRANSFORMER,
        SAMPLES / "calib",
        tmp_path / "out.onnx",
        samples=48,
        standard=True,
        skip_slow_nodes=False,
    )
    quantize(options)
    assert not any(node.domain for node in onnx.load(tmp_path / "out.onnx").graph.node)


@pytest.mark.parametrize(("rows", "fused"), [(FEW_ROWS, 1), (FEW_ROWS + 1, 0)])
def test_neither_where_samples_have_many_rows(rows, fused, tmp_path, rng):
    onnx.save(ir.to_proto(layers(1)), tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    for i in range(8):
        np.savez(
            tmp_path / "calib" / f"{i}.npz",
            x0=normal(rng, 1, rows, 32),
            m=np.zeros((1, 1, 1, rows), np.float32),
        )
    quantize(
        QuantizeOptions(tmp_path / "model.onnx", tmp_path / "calib", tmp_path / "out.onnx", mode=Mode.DYNAMIC)
    )
    operators = [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node]
    assert (operators.count("MultiHeadAttention"), operators.count("Split")) == (fused, fused)


def test_rows_that_nobody_knows_are_not_few():
    plan = plan_products(layers(1), Selection())
    assert few_rows(plan, plan.nodes, {"x0": [1, FEW_ROWS, 32]})
    assert not few_rows(plan, plan.nodes, {})
