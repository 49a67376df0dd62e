"""Products of columns and rows become matrix products with the same bits."""

import numpy as np
import onnx
import pytest

import onnxq
from onnxq.formats.outer_products import multiply_outer
from onnxq.graph.shapes import infer_shapes
from tests.conftest import normal, parse, run, to_ir


def changed(one, other, text="y = Mul(a, b)"):
    """The model before, the model after, and whether the rewrite says that it changed it."""
    before = parse(f"g (float[{one}] a, float[{other}] b) => (float y) {{ {text} }}", {})
    before.graph.output[0].type.tensor_type.ClearField("shape")
    model = to_ir(before)
    infer_shapes(model)
    return before, model, multiply_outer(model)


@pytest.mark.parametrize(
    ("one", "other", "shapes"),
    [
        ("N,16,1", "N,1,3", ([5, 16, 1], [5, 1, 3])),
        ("N,1,3", "N,16,1", ([5, 1, 3], [5, 16, 1])),
        ("N,40,1", "1,2", ([5, 40, 1], [1, 2])),
        ("N,1,16,1", "1,K,1,32", ([5, 1, 16, 1], [1, 4, 1, 32])),
        ("16,1", "1,8", ([16, 1], [1, 8])),
    ],
)
def test_a_column_times_a_row(one, other, shapes, rng):
    before, model, said = changed(one, other)
    assert said
    assert [node.op_type for node in model.graph] == ["MatMul"]
    feeds = dict(zip("ab", (normal(rng, *shape) for shape in shapes), strict=True))
    np.testing.assert_array_equal(run(model, feeds)[0], run(before, feeds)[0])


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        ("N,15,1", "N,1,3", "y = Mul(a, b)"),  # slower
        ("N,16,1", "N,1,1", "y = Mul(a, b)"),
        ("N,16,1", "N,1,33", "y = Mul(a, b)"),
        ("N,16,1", "N,16,3", "y = Mul(a, b)"),
        ("N,M,1", "N,1,3", "y = Mul(a, b)"),
        ("N,16,1", "3", "y = Mul(a, b)"),
        ("N,16,1", "N,1,3", "y = Add(a, b)"),
    ],
)
def test_other_products_stay(one, other, text):
    _, model, said = changed(one, other, text)
    assert not said
    assert [node.op_type for node in model.graph] == [text[4:7]]


def test_the_written_file_has_the_matrix_product(tmp_path, rng):
    text = (
        "g (float[N,8,32] x) => (float[N,8,64,4] y) { h = MatMul(x, w) u = Unsqueeze(h, last) y = Mul(u, v) }"
    )
    constants = {"w": normal(rng, 32, 64), "v": normal(rng, 1, 4), "last": np.array([-1])}
    onnx.save(parse(text, constants), tmp_path / "model.onnx")
    samples = [{"x": normal(rng, 2, 8, 32)} for _ in range(8)]
    for standard, expected in ((False, 0), (True, 1)):
        output = tmp_path / f"{standard}.onnx"
        onnxq.quantize(tmp_path / "model.onnx", samples, output, standard=standard, keep_int8=True)
        operators = [node.op_type for node in onnx.load(output).graph.node]
        assert operators.count("Mul") == expected
