"""Gradients through Q/DQ pairs: straight through inside the range, and those of scales (LSQ)."""

import numpy as np
import onnx_ir as ir

from onnxq.finetuning.backward import append_gradients, measure
from onnxq.finetuning.tape import Tape
from onnxq.graph.edit import sort_nodes
from onnxq.runtime.sessions import open_session

from ..conftest import parse, to_ir

X = np.array([[-3.0, -0.2, 0.0, 0.34, 1.0, 2.6, 25.4, 25.7]], np.float32)
G = np.arange(1, 9, dtype=np.float32)[None]
PAIR = """agraph (float[1,8] x, float s) => (float[1,8] y) {
    q = QuantizeLinear(x, s, zero)
    y = DequantizeLinear(q, s, zero)
}"""


def gradients_of(model: ir.Model, feeds: dict, names: list[str]) -> tuple[dict, dict[str, str]]:
    measured = measure(model, feeds)
    tape, nodes = Tape(model, measured.shapes, measured.known), list(model.graph)
    parameters = [value for value in model.graph.inputs if value.name in names]
    found, frozen = append_gradients(tape, nodes, {model.graph.outputs[0]: tape.constant(G)}, parameters)
    model.graph.outputs.extend(found.values())
    sort_nodes(model)
    arrays = open_session(model, optimize=False).run([each.name for each in found.values()], feeds)
    return {value.name: array for value, array in zip(found, arrays, strict=True)}, frozen


def test_a_pair_passes_gradients_inside_the_range_and_gives_the_scale_those_of_lsq() -> None:
    scale, zero = np.float32(0.1), 2
    model = to_ir(parse(PAIR, {"zero": np.array(zero, np.uint8)}))
    found, frozen = gradients_of(model, {"x": X, "s": np.array(scale)}, ["x", "s"])
    assert not frozen
    steps = X / scale
    inside = (steps > -zero - 0.5) & (steps < 255 - zero + 0.5)
    rounded = np.clip(np.rint(steps) + zero, 0, 255) - zero
    np.testing.assert_array_equal(found["x"], np.where(inside, G, 0))
    assert list(inside[0]) == [False, True, True, True, True, True, False, False]
    expected = (G * (rounded - np.where(inside, steps, 0))).sum()
    np.testing.assert_allclose(found["s"], expected, rtol=1e-4)
    assert found["s"].shape == ()


def test_a_clip_of_the_integers_reads_them_with_another_scale() -> None:
    text = """agraph (float[1,8] x) => (float[1,8] y) {
        q = QuantizeLinear(x, s, zero)
        c = Clip(q, low, high)
        y = DequantizeLinear(c, t, five)
    }"""
    constants = {
        "s": np.float32(0.1), "t": np.float32(0.02), "zero": np.uint8(2), "five": np.uint8(5), "low": np.uint8(5), "high": np.uint8(55),
    }  # fmt: skip
    found, frozen = gradients_of(to_ir(parse(text, constants)), {"x": X}, ["x"])
    assert not frozen
    integers = np.clip(np.rint(X / 0.1) + 2, 0, 255)
    np.testing.assert_allclose(
        found["x"], np.where((integers >= 5) & (integers <= 55), G * 0.2, 0), rtol=1e-6
    )


def test_a_range_found_at_run_time_passes_gradients_on() -> None:
    text = """agraph (float[1,8] x) => (float[1,8] y) {
        q, s, z = DynamicQuantizeLinear(x)
        y = DequantizeLinear(q, s, z)
    }"""
    found, frozen = gradients_of(to_ir(parse(text)), {"x": X}, ["x"])
    assert not frozen
    np.testing.assert_array_equal(found["x"], G)


def test_gradients_end_at_a_node_without_a_rule_and_say_so() -> None:
    text = """agraph (float[1,8] x, float[1,8] b) => (float[1,8] y) {
        h = Hardmax(x)
        y = Add(h, b)
    }"""
    model = to_ir(parse(text))
    for node, name in zip(model.graph, ("hard", "add"), strict=True):
        node.name = name
    found, frozen = gradients_of(model, {"x": X, "b": X}, ["x", "b"])
    assert frozen == {"hard": "Hardmax has no rule"}
    np.testing.assert_array_equal(found["b"], G)
    assert "x" not in found


def test_no_gradient_ends_where_a_shape_alone_is_read() -> None:
    text = """agraph (float[1,8] x) => (float[1,8] y) {
        s = Shape(x)
        c = ConstantOfShape(s)
        y = Add(x, c)
    }"""
    found, frozen = gradients_of(to_ir(parse(text)), {"x": X}, ["x"])
    assert not frozen
    np.testing.assert_array_equal(found["x"], G)


def test_a_value_used_twice_gets_the_sum_of_its_gradients() -> None:
    text = """agraph (float[1,8] x) => (float[1,8] y) {
        a = Mul(x, x)
        b = Neg(x)
        y = Add(a, b)
    }"""
    found, _ = gradients_of(to_ir(parse(text)), {"x": X}, ["x"])
    np.testing.assert_allclose(found["x"], G * (2 * X - 1), rtol=1e-5, atol=1e-5)
