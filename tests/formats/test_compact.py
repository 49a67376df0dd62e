"""Small files: shared zeros, no types of added values; and weights that were integers stay integers."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxq
from onnxq.formats.compact import compact, stated_types
from onnxq.formats.half_precision import as_int8, narrow_weights
from onnxq.normalize.passes import normalize
from onnxq.runtime.sessions import open_session, run
from tests.conftest import Quantized, normal, parse, to_ir

CHANNELS = 32


def test_zero_points_are_shared_and_added_values_have_no_types(rng):
    text = """g (float[1,4,8,8] x) => (float[1,4,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) y = Conv<pads=[1,1,1,1]>(r, v, c) }"""
    weights = {name: normal(rng, 4, 4, 3, 3) for name in "wv"} | {name: normal(rng, 4) for name in "bc"}
    model = parse(text, weights)
    quantized = Quantized(model, [{"x": normal(rng, 1, 4, 8, 8)} for _ in range(4)]).model
    stated = stated_types(to_ir(model))
    assert compact(quantized, stated | {"a"})
    written = ir.to_proto(quantized)
    zeros = [numpy_helper.to_array(each) for each in written.graph.initializer]
    zeros = [(each.dtype, each.shape) for each in zeros if each.dtype.kind in "iu" and not each.any()]
    assert len(zeros) == len(set(zeros)) >= 2
    assert {each.name for each in written.graph.value_info} == {"a"}


def hybrid(rng, *, transposed=False):
    """Make a network whose weights are stored as int8 behind DequantizeLinear, and compute in float."""
    nodes, constants, x = [], [], "x"
    for i in range(4):
        weight = normal(rng, CHANNELS, CHANNELS)
        scales = np.abs(weight).max(axis=1) / 127
        codes = np.rint(weight / scales[:, None]).astype(np.int8)
        constants += [numpy_helper.from_array(codes, f"q{i}"), numpy_helper.from_array(scales, f"s{i}")]
        constants.append(numpy_helper.from_array(np.zeros(CHANNELS, np.int8), f"z{i}"))
        nodes.append(helper.make_node("DequantizeLinear", [f"q{i}", f"s{i}", f"z{i}"], [f"d{i}"], axis=0))
        if transposed:
            nodes.append(helper.make_node("Transpose", [f"d{i}"], [f"t{i}"], perm=[1, 0]))
            nodes.append(helper.make_node("MatMul", [x, f"t{i}"], [f"h{i}"]))
        else:
            nodes.append(helper.make_node("Gemm", [x, f"d{i}"], [f"h{i}"], transB=1))
        nodes.append(helper.make_node("Relu", [f"h{i}"], [f"r{i}"]))
        x = f"r{i}"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, CHANNELS])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [64, CHANNELS])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("transposed", [False, True])
def test_weights_that_are_integers_already(rng, tmp_path, transposed):
    onnx.save(hybrid(rng, transposed=transposed), tmp_path / "model.onnx")
    (tmp_path / "data").mkdir()
    for i in range(30):
        np.save(tmp_path / "data" / f"{i:02}.npy", normal(rng, 64, CHANNELS))
    report = onnxq.quantize(
        tmp_path / "model.onnx",
        tmp_path / "data",
        tmp_path / "out.onnx",
        skip_slow_nodes=False,
        effort="fast",
    )
    assert report.planned == 4
    assert report.outputs.sqnr_db > 25
    sessions = [ort.InferenceSession(tmp_path / name) for name in ("model.onnx", "out.onnx")]
    x = normal(rng, 64, CHANNELS)
    one, other = (session.run(None, {"x": x})[0] for session in sessions)
    assert np.square(one).sum() > 10**2.3 * np.square(one - other).sum()


def test_weights_that_were_integers_stay_integers_in_float_products(rng):
    model = normalize(to_ir(hybrid(rng)))
    x = {"x": normal(rng, 64, CHANNELS)}
    (before,) = run(open_session(model), x, "x")
    assert narrow_weights(model, [node.name for node in model.graph])
    weights = [value for value in model.graph.initializers.values() if len(value.shape) == 2]
    assert {value.dtype for value in weights if value.shape[1] > 1} == {ir.DataType.INT8}
    (after,) = run(open_session(model), x, "x")
    assert np.allclose(before, after, rtol=1e-5, atol=1e-5)


def test_many_small_weights_are_narrowed_and_few_values_stay(rng):
    """No weight of a hundred alike is 1 % of the constants, and yet together they are the file."""
    layers = " ".join(f"v{i + 1} = MatMul(v{i}, w{i})" for i in range(120))
    weights = {f"w{i}": normal(rng, 8, 8) for i in range(1, 120)} | {"w0": normal(rng, 3, 8)}
    model = to_ir(parse(f"g (float[1,3] v0) => (float[1,8] v120) {{ {layers} }}", weights))
    assert narrow_weights(model, [node.name for node in model.graph])
    kinds = [value.dtype for value in model.graph.initializers.values()]
    assert kinds.count(ir.DataType.FLOAT16) == 119
    assert model.graph.initializers["w0"].dtype == ir.DataType.FLOAT


def test_a_product_that_is_quantized_already_stays(rng, tmp_path):
    model = hybrid(rng)
    first = model.graph.node[1]
    constants = {"xs": np.float32(0.02), "xz": np.uint8(128)}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v), k) for k, v in constants.items())
    for node in reversed(
        [
            helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        ]
    ):
        model.graph.node.insert(0, node)
    first = next(node for node in model.graph.node if node.op_type == "Gemm")
    first.input[0] = "xd"
    names = [node.op_type for node in normalize(to_ir(model)).graph]
    assert names.count("DequantizeLinear") == 2  # of x, and of the first weight


@pytest.mark.parametrize("axis", [0, 1, None])
def test_multiples_of_a_scale_are_recognised(rng, axis):
    codes = rng.integers(-127, 128, (24, 40))
    codes[:, 0] = codes[0] = 127
    scales = {
        0: rng.uniform(0.01, 0.1, (24, 1)),
        1: rng.uniform(0.01, 0.1, (1, 40)),
        None: np.array([[0.03]]),
    }
    weight = (codes * scales[axis]).astype(np.float32)
    found, scale = as_int8(weight)
    assert np.array_equal(found, codes)
    assert np.abs(found * scale - weight).max() < 1e-6
    assert as_int8(weight + normal(rng, 24, 40) * 1e-3) is None
    assert as_int8(np.float32([[0.0, 1.0]])) is None  # scales would take more bytes
