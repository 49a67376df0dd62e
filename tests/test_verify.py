"""What verification reads from the runtime: coverage, leftovers, requantizations, and what does not fit."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.macs import concrete_shapes, node_macs
from onnxq.model.normalize import normalize
from onnxq.verify import Outputs, inspect_kernels, original_names
from tests.conftest import Quantized, normal, parse, to_ir


def kernels_of(quantized, path):
    ir.save(quantized.model, path)
    return inspect_kernels(path, quantized.float, quantized.plan, concrete_shapes(quantized.float, quantized.feeds[0]))


def quantized_from(rng, text, **shapes):
    model = parse("g (float[N,4,8,8] x) => (float[N,4,8,8] y) {" + text + "}", {k: normal(rng, *s) for k, s in shapes.items()})
    return Quantized(model, [{"x": normal(rng, 1, 4, 8, 8)} for _ in range(3)])


def test_all_planned_macs_run_on_integers(rng, tmp_path):
    quantized = quantized_from(rng, "a = Conv(x, w) r = Relu(a) y = Conv(r, v)", w=(4, 4, 1, 1), v=(4, 4, 1, 1))
    kernels = kernels_of(quantized, tmp_path / "m.onnx")
    assert kernels.integer_share == kernels.model_share == 1.0
    assert kernels.counts["QLinearConv"] == 2
    assert kernels.leftover == 2
    assert kernels.requantizations == []
    assert kernels.fell_back == []


def test_the_share_of_a_model_counts_what_stays_float(rng, tmp_path):
    text = "a = Conv(x, w) y = ConvTranspose(a, v)"
    kernels = kernels_of(quantized_from(rng, text, w=(4, 4, 1, 1), v=(4, 4, 1, 1)), tmp_path / "m.onnx")
    assert kernels.integer_share == 1.0
    assert kernels.model_share == 0.5


def test_requantizations_are_named(rng, tmp_path):
    text = "a = Conv(x, w) r = Relu(a) c = Conv(r, v) s = Add(a, c) y = Conv(s, u)"
    shapes = {"w": (4, 4, 1, 1), "v": (4, 4, 1, 1), "u": (4, 4, 1, 1)}
    assert kernels_of(quantized_from(rng, text, **shapes), tmp_path / "m.onnx").requantizations == ["r"]


def test_a_planned_node_that_runs_in_float_is_named(rng, tmp_path):
    quantized = quantized_from(rng, "a = Conv(x, w) y = Conv(a, v)", w=(4, 4, 1, 1), v=(4, 4, 1, 1))
    first = next(iter(quantized.plan.nodes))
    for node in quantized.model.graph:  # a bias in float keeps this runtime from its integer kernel
        if node.name == first:
            quantizer = node.outputs[0].consumers()[0]
            extra = ir.Node("", "Neg", [node.outputs[0]], name="extra")
            extra.outputs[0].name = "extra"
            quantized.model.graph.append(extra)
            quantized.model.graph.outputs.append(extra.outputs[0])
            assert quantizer.op_type == "QuantizeLinear"
            break
    kernels = kernels_of(quantized, tmp_path / "m.onnx")
    assert kernels.fell_back == [first]
    assert 0 < kernels.integer_share < 1


@pytest.mark.parametrize(
    ("optimized", "written", "suspect"),
    [(8.0, 19.0, True), (18.0, 19.0, False), (50.0, 70.0, False), (30.0, 70.0, True), (None, None, False)],
)
def test_integer_kernels_that_compute_something_else_are_suspect(optimized, written, suspect):
    assert Outputs(4, optimized, 4, optimized, written).suspect == suspect


@pytest.mark.parametrize(
    ("text", "constants", "macs"),
    [
        ("y = Conv<pads=[1,1,1,1], group=2>(x, w)", {"w": (6, 2, 3, 3)}, 6 * 64 * 2 * 9),
        ("y = ConvTranspose<strides=[2,2]>(x, w)", {"w": (4, 5, 2, 2)}, 4 * 64 * 5 * 4),
        ("y = MatMul(x, w)", {"w": (8, 3)}, 4 * 8 * 3 * 8),
        ("f = Flatten(x) y = Gemm<transB=1>(f, w)", {"w": (3, 256)}, 3 * 256),
        ("y = Relu(x)", {}, 0),
    ],
)
def test_macs(rng, text, constants, macs):
    rank = 2 if "Gemm" in text else 4
    output = ",".join("ABCD"[:rank])
    model = parse(f"g (float[N,4,8,8] x) => (float[{output}] y) {{ {text} }}", {k: normal(rng, *s) for k, s in constants.items()})
    normalized = normalize(to_ir(model))
    shapes = concrete_shapes(normalized, {"x": np.zeros((1, 4, 8, 8), np.float32)})
    assert sum(node_macs(node, shapes) for node in normalized.graph) == macs


def test_names_of_joined_products_are_found_and_others_kept():
    assert original_names("conv_nhwc") == ["conv"]
    assert original_names("query + key_token_3") == ["query + key", "query", "key"]  # a model's own node may be called so
