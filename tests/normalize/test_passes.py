"""Each pass keeps the outputs and gives the operators that the planner expects."""

from collections import Counter

import numpy as np
import onnx
import pytest

from onnxq.graph.edit import constant
from onnxq.graph.files import load
from onnxq.graph.shapes import opset_of
from onnxq.normalize.passes import normalize
from onnxq.options import QuantizeOptions
from onnxq.pipeline import quantize
from tests.conftest import normal, parse, run, to_ir

CONV = "g (float[N,3,6,6] x) => (float[N,4,6,6] y) {"


def check(model, feeds, expected, *, tolerance=1e-5):
    before = run(model, feeds)
    normalized = normalize(to_ir(model))
    assert Counter(node.op_type for node in normalized.graph) == Counter(expected)
    after = run(normalized, feeds)
    for a, b in zip(before, after, strict=True):
        assert np.abs(a - b).max(initial=0) <= tolerance * max(1, np.abs(a).max(initial=0))
    return normalized


def conv_constants(rng):
    return {
        "w": normal(rng, 4, 3, 3, 3),
        "s": np.abs(normal(rng, 4)) + 0.1,
        "b": normal(rng, 4),
        "m": normal(rng, 4),
        "v": np.abs(normal(rng, 4)) + 0.1,
    }


def x(rng):
    return {"x": normal(rng, 2, 3, 6, 6)}


def test_batch_norm_folds_into_conv(rng):
    text = CONV + "c = Conv<pads=[1,1,1,1]>(x, w) y = BatchNormalization(c, s, b, m, v) }"
    check(parse(text, conv_constants(rng)), x(rng), ["Conv"])


def test_batch_norm_stays_where_the_conv_has_another_use(rng):
    text = CONV + "c = Conv<pads=[1,1,1,1]>(x, w) n = BatchNormalization(c, s, b, m, v) y = Add(n, c) }"
    check(parse(text, conv_constants(rng)), x(rng), ["Conv", "BatchNormalization", "Add"])


@pytest.mark.parametrize(
    "step",
    [
        "Mul(c, k)",
        "Mul(k, c)",
        "Add(c, k)",
        "Sub(c, k)",
        "Sub(k, c)",
        "Div(c, k)",
        "Mul(c, one)",
        "Add(one, c)",
    ],
)
def test_channel_arithmetic_folds_into_conv(rng, step):
    constants = conv_constants(rng) | {"k": np.abs(normal(rng, 1, 4, 1, 1)) + 0.2, "one": np.float32(0.7)}
    check(parse(CONV + f"c = Conv<pads=[1,1,1,1]>(x, w, b) y = {step} }}", constants), x(rng), ["Conv"])


@pytest.mark.parametrize("shape", [(1, 1, 6, 1), (2, 4, 1, 1), (1, 4, 6, 6), (6,)])
def test_other_arithmetic_stays(rng, shape):
    text = CONV + "c = Conv<pads=[1,1,1,1]>(x, w) y = Mul(c, k) }"
    check(parse(text, conv_constants(rng) | {"k": normal(rng, *shape)}), x(rng), ["Conv", "Mul"])


GEMM = "g (float[5,8] x) => (float[5,4] y) {"


@pytest.mark.parametrize(
    ("text", "c", "expected"),
    [
        ("y = Gemm<alpha=0.5, beta=2.0>(x, w, c)", (4,), ["Gemm"]),
        ("y = Gemm(x, w, c)", (1, 4), ["Gemm"]),
        ("y = Gemm(x, w, c)", (1,), ["Gemm"]),
        ("y = Gemm(x, w, c)", (), ["Gemm"]),
        ("y = Gemm<beta=0.5>(x, w, c)", (5, 4), ["Gemm", "Add"]),
        ("y = Gemm(x, w, c)", (5, 1), ["Gemm", "Add"]),
        ("p = MatMul(x, w) y = Add(p, c)", (4,), ["Gemm"]),
        ("p = MatMul(x, w) y = Add(c, p)", (1, 4), ["Gemm"]),
        ("p = MatMul(x, w) y = Add(p, c)", (5, 4), ["Gemm", "Add"]),
        ("p = MatMul(x, w) q = Add(p, c) y = Mul(q, c)", (1,), ["Gemm"]),
        ("t = Transpose<perm=[1,0]>(x) y = Gemm<transA=1, alpha=3.0>(t, w)", (4,), ["Transpose", "Gemm"]),
    ],
)
def test_gemm_forms(rng, text, c, expected):
    model = parse(f"{GEMM} {text} }}", {"w": normal(rng, 8, 4), "c": normal(rng, *c)})
    check(model, {"x": normal(rng, 5, 8)}, expected)


def test_matmul_of_rank_three_keeps_its_add(rng):
    text = "g (float[2,5,8] x) => (float[2,5,4] y) { p = MatMul(x, w) y = Add(p, c) }"
    check(
        parse(text, {"w": normal(rng, 8, 4), "c": normal(rng, 4)}),
        {"x": normal(rng, 2, 5, 8)},
        ["MatMul", "Add"],
    )


def test_scalar_max_and_min_become_clip(rng):
    text = "g (float[3,4] x) => (float[3,4] y) { a = Max(x, lo) y = Min(hi, a) }"
    model = parse(text, {"lo": np.float32([-0.5]), "hi": np.float32(0.5)})
    check(model, {"x": normal(rng, 3, 4)}, ["Clip", "Clip"])


def test_weights_behind_constant_identity_and_transpose_are_found(rng):
    text = CONV + "i = Identity(w0) w = Transpose<perm=[1,0,2,3]>(i) y = Conv<pads=[1,1,1,1]>(x, w) }"
    model = parse(text)
    weight = onnx.numpy_helper.from_array(normal(rng, 3, 4, 3, 3), "w0")
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w0"], value=weight))
    normalized = check(model, x(rng), ["Conv"])
    assert normalized.graph.node(0).inputs[1].const_value is not None


@pytest.mark.parametrize(
    ("opset", "ir_version", "inputs"), [(8, 3, ["x"]), (13, 3, ["x"]), (17, 8, ["x", "w"])]
)
def test_initializers_among_the_inputs_are_constants_before_version_4(rng, opset, ir_version, inputs):
    model = parse(
        CONV.replace("x)", "x, float[4,3,3,3] w)") + "y = Conv<pads=[1,1,1,1]>(x, w) }",
        {"w": normal(rng, 4, 3, 3, 3)},
        opset=opset,
        ir_version=ir_version,
    )
    normalized = check(model, x(rng), ["Conv"])
    assert [value.name for value in normalized.graph.inputs] == inputs
    assert list(normalized.graph.initializers) == ["w"]


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_an_input_that_is_an_output_keeps_its_name(rng, kind):
    name = {np.float32: "float", np.float16: "float16"}[kind]
    text = f"g ({name}[N,4] x, {name}[N,4] k) => ({name}[N,4] k, {name}[N,4] y) {{ h = MatMul(x, w) y = Add(h, k) }}"
    feeds = {key: normal(rng, 2, 4).astype(kind) for key in "xk"}
    model = parse(text, {"w": normal(rng, 4, 4).astype(kind)})
    wanted, normalized = run(model, feeds), normalize(to_ir(model))
    assert [value.name for value in normalized.graph.outputs] == ["k", "y"]
    assert normalized.graph.outputs[0] is normalized.graph.inputs[1]
    for a, b in zip(wanted, run(normalized, feeds), strict=True):
        assert a.dtype == b.dtype == kind
        assert np.allclose(a, b, rtol=1e-2, atol=1e-2)


def test_a_body_that_outputs_its_input_or_one_value_twice_gets_identities(rng):
    text = """g (float[2,4] x, int64 n) => (float[2,4] y, float[2,4] z, float[2,4] u) {
        c = Constant<value = bool {1}>()
        y, z, u = Loop (n, c, x, x, x) <body = b (int64 i, bool ci, float[2,4] s, float[2,4] t, float[2,4] v) =>
            (bool ci, float[2,4] r, float[2,4] r, float[2,4] v) { r = Add(s, s) }> }"""
    model, feeds = parse(text), {"x": normal(rng, 2, 4), "n": np.array(3)}
    (y, z, u) = run(normalize(to_ir(model)), feeds)
    assert np.allclose(y, 8 * feeds["x"])
    assert np.array_equal(y, z)
    assert np.array_equal(u, feeds["x"])


@pytest.mark.parametrize("leading", ["1", "1,1"])
def test_a_weight_with_leading_axes_of_size_1_is_a_matrix(rng, leading):
    text = "g (float[2,3,5,4] x) => (float[2,3,5,6] y, float[2,3,5,6] z) { y = MatMul(x, w) a = Abs(x) z = MatMul(a, w) }"
    shape = [int(size) for size in leading.split(",")]
    model = parse(text, {"w": normal(rng, *shape, 4, 6)})
    normalized = check(model, {"x": normal(rng, 2, 3, 5, 4)}, ["MatMul", "Abs", "MatMul"])
    assert [value.shape for value in normalized.graph.initializers.values() if value.uses()] == [[4, 6]]


def test_a_weight_that_adds_an_axis_stays(rng):
    text = "g (float[5,4] x) => (float[1,5,6] y) { y = MatMul(x, w) }"
    check(parse(text, {"w": normal(rng, 1, 4, 6)}), {"x": normal(rng, 5, 4)}, ["MatMul"])


def test_dropout_and_identity_vanish(rng):
    text = CONV + "c = Conv<pads=[1,1,1,1]>(x, w) d = Dropout(c) i = Identity(d) y = Relu(i) }"
    check(parse(text, conv_constants(rng)), x(rng), ["Conv", "Relu"])


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 12])
def test_old_opsets_are_lifted(rng, opset):
    text = (
        CONV + "c = Conv<pads=[1,1,1,1]>(x, w) n = BatchNormalization(c, s, b, m, v) r = Relu(n) y "
        "= MaxPool<kernel_shape=[1,1]>(r) }"
    )
    model = parse(text, conv_constants(rng), opset=opset, ir_version=4)
    normalized = check(model, x(rng), ["Conv", "Relu", "MaxPool"])
    assert opset_of(normalized) == 13


def test_a_constant_that_would_grow_is_not_folded(rng):
    text = "g (float[1] x) => (float[3000,1000] y) { s = Shape(big) e = Expand(one, shape) y = Add(x, e) }"
    model = parse(text, {"one": np.float32([1]), "shape": np.int64([3000, 1000]), "big": np.float32([1])})
    check(model, {"x": normal(rng, 1)}, ["Expand", "Add"])


def test_nodes_get_names_of_their_own(rng):
    model = parse(CONV + "c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c) y = Relu(r) }", conv_constants(rng))
    for node in model.graph.node:
        node.name = "same"
    normalized = normalize(to_ir(model))
    names = [node.name for node in normalized.graph]
    assert len(set(names)) == len(names) == 3


def test_local_functions_are_inlined(rng):
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
    g (float[N,3,6,6] x, float[4,3,3,3] w) => (float[N,4,6,6] y) { y = local.block(x, w) }
    <domain: "local", opset_import: ["" : 17]> block (a, k) => (r) {
        c = Conv<pads=[1,1,1,1]>(a, k) r = Relu(c) }"""
    model = onnx.parser.parse_model(text)
    check(model, x(rng) | {"w": normal(rng, 4, 3, 3, 3)}, ["Conv", "Relu"])


def chain(rng, text, expected, *, extra=None, tolerance=1e-4):
    constants = {
        "w": normal(rng, 4, 3, 3, 3),
        "p": normal(rng, 4, 3, 1, 1),
        "d": normal(rng, 3, 1, 3, 3),
        "b": normal(rng, 4),
    }
    scale = {
        "k": np.abs(normal(rng, 1, 3, 1, 1)) + 0.5,
        "c": normal(rng, 1, 3, 1, 1),
        "a": np.float32(0.7),
        "s": np.float32([0.3]),
    }
    model = parse(
        "g (float[2,3,6,6] x) => (float[2,M,H,W] y) { r = Tanh(x) " + text + " }",
        constants | scale | (extra or {}),
    )
    check(model, {"x": normal(rng, 2, 3, 6, 6)}, expected, tolerance=tolerance)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m = Mul(r, k) y = Conv<pads=[1,1,1,1]>(m, w, b)", ["Tanh", "Conv"]),
        ("m = Div(r, a) y = Conv<pads=[1,1,1,1], group=3>(m, d)", ["Tanh", "Conv"]),
        ("m = Add(r, c) y = Conv(m, p)", ["Tanh", "Conv"]),
        ("m = Mul(a, r) n = Sub(m, s) y = Conv(n, w, b)", ["Tanh", "Conv"]),
        ("m = Mul(r, k) n = Add(m, c) y = Conv<pads=[1,1,1,1]>(n, w, b)", ["Tanh", "Add", "Conv"]),
        ('m = Mul(r, a) n = Add(s, m) y = Conv<auto_pad="SAME_UPPER">(n, w)', ["Tanh", "Add", "Conv"]),
        ("n = Add(r, c) y = Conv<pads=[1,1,1,1]>(n, w, b)", ["Tanh", "Add", "Conv"]),
        (
            "m = Mul(r, k) u = Conv(m, w) v = Conv(m, w, b) y = Concat<axis=1>(u, v)",
            ["Tanh", "Conv", "Conv", "Concat"],
        ),
        (
            "m = Mul(r, k) u = Conv(m, p) v = Relu(m) y = Concat<axis=1>(u, v)",
            ["Tanh", "Mul", "Conv", "Relu", "Concat"],
        ),
    ],
)
def test_channel_arithmetic_folds_into_the_conv_behind_it(rng, text, expected):
    chain(rng, text, expected)


def test_what_is_computed_twice_is_computed_once(rng):
    """Exporters that unroll a loop write this; behind separate Q/DQ the runtime would not merge it."""
    text = """g (float[2,5,8] x) => (float[2,5,4] y) {
        z = Tanh(x) t = Tanh(x)
        a0 = Constant<value_ints = [1, -1, 8]>() a1 = Constant<value_ints = [1, -1, 8]>()
        u = Reshape(z, a0) v = Reshape(t, a1) a = MatMul(u, w) b = MatMul(v, w) c = Add(a, b)
        s = Constant<value_ints = [2, 5, 4]>() y = Reshape(c, s) }"""
    check(
        parse(text, {"w": normal(rng, 8, 4)}),
        {"x": normal(rng, 2, 5, 8)},
        ["Tanh", "Reshape", "MatMul", "Add", "Reshape"],
    )


def test_sizes_below_zero_are_unknown(tmp_path, rng):
    """Paddle writes -1 for unknown sizes; shape inference would compute wrong sizes from it."""
    text = CONV + "c = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w) d = Relu(c) y = Add(d, k) }"
    model = parse(text, conv_constants(rng) | {"k": normal(rng, 1, 4, 1, 1)})
    for value in (model.graph.input[0], model.graph.output[0]):
        for dim in value.type.tensor_type.shape.dim:
            dim.dim_value = -1
    onnx.save(model, tmp_path / "model.onnx")
    normalized = normalize(load(tmp_path / "model.onnx"))
    stated = [size for node in normalized.graph for value in node.outputs for size in value.shape]
    assert all(not isinstance(size, int) or size in (4,) for size in stated)
    feeds = x(rng)
    np.testing.assert_allclose(run(normalized, feeds)[0], run(model, feeds)[0], atol=1e-5)


@pytest.mark.parametrize("sizes", [[], [4], [1, 4, 8, 9], [1, 1000, 8, 8]])
def test_a_stated_shape_that_inference_contradicts_is_not_believed(sizes, tmp_path, rng):
    """The runtime only warns in the float model, but cannot load the int8 one."""
    text = (
        "g (float[1,4,8,8] x) => (float[1,4,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, w) d = "
        "Relu(c) y = Conv<pads=[1,1,1,1]>(d, w) }"
    )
    model = parse(text, {"w": normal(rng, 4, 4, 3, 3)})
    wrong = onnx.helper.make_tensor_value_info
    model.graph.output[0].CopyFrom(wrong("y", onnx.TensorProto.FLOAT, sizes))
    model.graph.value_info.extend([wrong("c", onnx.TensorProto.FLOAT, sizes)])
    onnx.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "x.npz", x=normal(rng, 1, 4, 8, 8))
    report = quantize(QuantizeOptions(tmp_path / "model.onnx", tmp_path / "x.npz", skip_slow_nodes=False))
    assert report.kernels.counts["QLinearConv"] == 2
    (output,) = onnx.load(tmp_path / "model.int8.onnx").graph.output
    assert [dim.dim_value for dim in output.type.tensor_type.shape.dim] == [1, 4, 8, 8]


def test_stated_names_of_sizes_stay(rng):
    text = "g (float[batch,4,8,8] x) => (float[many,4,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, w) y = Relu(c) }"
    normalized = normalize(to_ir(parse(text, {"w": normal(rng, 4, 4, 3, 3)})))
    assert [str(size) for size in normalized.graph.outputs[0].shape] == ["many", "4", "8", "8"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y = ReduceMean<axes=[2,3], keepdims=1>(t)", ["Tanh", "GlobalAveragePool"]),
        ("y = ReduceMean<axes=[-1,-2], keepdims=0>(t)", ["Tanh", "GlobalAveragePool", "Flatten"]),
        ("y = ReduceMean<axes=[1,3]>(t)", ["Tanh", "ReduceMean"]),
        ("y = ReduceMean<axes=[2]>(t)", ["Tanh", "ReduceMean"]),
        ("y = ReduceMean<keepdims=0>(t)", ["Tanh", "ReduceMean"]),
        ("u = Flatten(t) y = ReduceMean<axes=[1]>(u)", ["Tanh", "Flatten", "ReduceMean"]),
    ],
)
def test_a_mean_over_an_image_is_a_pool(rng, text, expected):
    check(parse(f"g (float[N,3,6,6] x) => (float y) {{ t = Tanh(x) {text} }}", {}), x(rng), expected)


def test_a_mean_whose_axes_are_an_input(rng):
    text = "g (float[N,3,6,6] x) => (float[N,3,1,1] y) { t = Tanh(x) y = ReduceMean(t, axes) }"
    check(parse(text, {"axes": np.array([2, 3])}, opset=18), x(rng), ["Tanh", "GlobalAveragePool"])


def test_bodies_of_old_models_may_read_initializers(rng):
    text = """g (float[2,4] x, bool c) => (float[2,4] y) { y = If(c)<
        then_branch = t () => (float[2,4] p) { p = MatMul(x, w) }, else_branch = e () => (float[2,4] q) { q = Relu(x) }> }"""
    for body, version in ((text, 4), ("g (float[2,4] x) => (float[2,4] y) { y = MatMul(x, w) }", 4)):
        model = to_ir(parse(body, {"w": normal(rng, 4, 4)}, opset=17, ir_version=3))
        assert normalize(model).ir_version == version


@pytest.mark.parametrize(
    ("text", "constants", "wanted"),
    [
        ("y = PRelu(x, a)", {"a": np.full((4, 1, 1), 0.3)}, ["LeakyRelu"]),
        ("y = PRelu(x, a)", {"a": np.full((1,), -0.3)}, ["LeakyRelu"]),
        ("y = PRelu(x, a)", {"a": np.array([0.3, 0.3, 0.2, 0.3]).reshape(4, 1, 1)}, ["PRelu"]),
        ("y = PRelu(x, a)", {"a": np.full((1, 1, 1, 1, 1), 0.3)}, ["PRelu"]),  # adds an axis
        ("b = Abs(x) y = Pow(b, a)", {"a": np.array(0.5)}, ["Abs", "Sqrt"]),
        ("b = Abs(x) y = Pow(b, a)", {"a": np.array([0.5, 2.0, 0.5, 0.5, 0.5])}, ["Abs", "Pow"]),
    ],
)
def test_operators_with_one_parameter_become_simpler_ones(rng, text, constants, wanted):
    constants = {name: array.astype(np.float32) for name, array in constants.items()}
    model = parse(f"g (float[1,4,3,5] x) => (float y) {{ {text} }}", constants, opset=18)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    feeds = {"x": normal(rng, 1, 4, 3, 5)}
    normalized = normalize(to_ir(model))
    assert [node.op_type for node in normalized.graph] == wanted
    np.testing.assert_allclose(run(normalized, feeds)[0], run(model, feeds)[0], rtol=1e-6)


@pytest.mark.parametrize(("divisor", "wanted"), [(np.float16(2**0.5), 2**0.5), (1.41, 1.41)])
def test_the_root_of_a_half_precision_gelu_becomes_exact(divisor, wanted):
    constants = {"r": np.float32(divisor), "o": np.float32(1), "h": np.float32(0.5)}
    text = "s = Div(x, r) e = Erf(s) p = Add(e, o) q = Mul(h, p) y = Mul(x, q)"
    normalized = normalize(to_ir(parse(f"g (float[2,8] x) => (float[2,8] y) {{ {text} }}", constants)))
    (division,) = (node for node in normalized.graph if node.op_type == "Div")
    assert constant(division.inputs[1]) == np.float32(wanted)


@pytest.mark.parametrize(
    ("outputs", "groups", "wanted"),
    [(32, 16, ["Gather", "Conv"]), (48, 16, ["Gather", "Conv"]), (16, 16, ["Conv"]), (8, 4, ["Conv"])],
)
def test_channels_of_a_depthwise_convolution_with_several_outputs_are_repeated(rng, outputs, groups, wanted):
    text = f"y = Conv<group={groups}, pads=[1,1,1,1], strides=[2,2]>(x, w, b)"
    constants = {"w": normal(rng, outputs, 1, 3, 3), "b": normal(rng, outputs)}
    model = parse(f"g (float[N,{groups},9,8] x) => (float[N,{outputs},5,4] y) {{ {text} }}", constants)
    feeds = {"x": normal(rng, 2, groups, 9, 8)}
    normalized = normalize(to_ir(model))
    assert [node.op_type for node in normalized.graph] == wanted
    np.testing.assert_allclose(run(normalized, feeds)[0], run(model, feeds)[0], rtol=1e-5, atol=1e-5)
