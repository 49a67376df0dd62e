"""Numbers that are stored with axes lose them where the result keeps its shape."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.graph.shapes import infer_shapes
from onnxq.normalize.scalars import drop_axes_of_numbers
from tests.conftest import normal, parse, run, to_ir

ONE = np.full((1, 1, 1), 1.5, np.float32)


def changed(text, kind="float[2,3,4]"):
    """The model before, the model after, and whether the pass says that it changed it."""
    before = parse(f"g ({kind} x) => (float y) {{ {text} }}", {"n": ONE, "m": ONE[0]})
    before.graph.output[0].type.tensor_type.ClearField("shape")
    model = to_ir(before)
    infer_shapes(model)
    return before, model, drop_axes_of_numbers(model)


@pytest.mark.parametrize("op", ["Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"])
@pytest.mark.parametrize("operands", ["x, n", "n, x", "x, m"])
def test_a_number_needs_no_axes(op, operands, rng):
    before, model, said = changed(f"y = {op}({operands})")
    assert said
    (node,) = model.graph
    assert sorted(len(value.shape) for value in node.inputs) == [0, 3]
    x = np.abs(normal(rng, 2, 3, 4)) + 0.1
    np.testing.assert_array_equal(run(ir.to_proto(model), {"x": x})[0], run(before, {"x": x})[0])


def test_nodes_share_a_number():
    _, model, _ = changed("a = Mul(x, n) y = Add(a, n)")
    first, second = model.graph
    assert first.inputs[1] is second.inputs[1]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("y = Add(x, n)", "float[2,4]"),  # the number adds an axis
        ("y = Add(x, n)", "float"),
        ("y = Concat<axis=0>(x, n)", "float[2,1,1]"),
        ("y = Add(n, n)", "float[2,3,4]"),
    ],
)
def test_other_axes_stay(text, kind):
    _, model, said = changed(text, kind)
    assert not said
    assert ONE.shape in {tuple(value.shape) for node in model.graph for value in node.inputs}
