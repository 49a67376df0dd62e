"""Reshapes get constant shapes only where these equal the computed ones."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes import common as passes

from onnxq.graph.edit import constant
from onnxq.graph.shapes import infer_shapes
from onnxq.normalize.reshapes import fix_reshapes
from tests.conftest import normal, parse, run

# sizes that the file calls alike may differ: nothing may be concluded from their names
HEAD = "g (float[n,s,32] x, float[n,s,32] other) => (float y1, float y) { "
TAIL = " r = Reshape(v, shape) y = ReduceMax<keepdims=0>(r) y1 = ReduceMax<keepdims=0>(other) }"
FIXED = {
    "slices": ("v = Tanh(x) d = Shape(v) p = Slice(d, zero, two) shape = Concat<axis=0>(p, heads)",
        [0, 0, 4, 8]),
    "slice to the end": ("v = Tanh(x) d = Shape(v) p = Slice(d, zero, far) shape = Concat<axis=0>(p)",
        [0, 0, 0]),
    "sizes one by one": (
        "v = Tanh(x) d = Shape(v) n = Gather(d, i0) s = Gather(d, i1) "
        "n1 = Unsqueeze(n, zero) s1 = Unsqueeze(s, zero) "
        "shape = Concat<axis=0>(n1, s1, heads)", [0, 0, 4, 8],
    ),
    "of what was projected": ("m = MatMul(x, w) v = Add(m, b) d = Shape(x) p = Slice(d, zero, two) "
        "shape = Concat<axis=0>(p, heads)", [0, 0, 4, 8]),
    "flattened": ("v = Relu(x) d = Shape(x) p = Slice(d, zero, one) shape = Concat<axis=0>(p, rest)",
        [0, -1]),
}  # fmt: skip
OTHER = {
    "sizes of another input": "v = Tanh(x) d = Shape(other) p = Slice(d, zero, two) "
    "shape = Concat<axis=0>(p, heads)",
    "sizes in another order": "v = Tanh(x) d = Shape(x) p = Gather(d, swapped) "
    "shape = Concat<axis=0>(p, heads)",
    "a size that a product changes": "v = MatMul(x, w) d = Shape(x) p = Slice(d, two, far) "
    "shape = Concat<axis=0>(ones, p, rest)",
    "a sum that repeats rows": "v = Add(x, many) d = Shape(x) p = Slice(d, zero, two) q = Mul(p, five) "
    "shape = Concat<axis=0>(q, rest)",
    "rows that a sum repeats": "v = Add(x, many) d = Shape(x) p = Slice(d, zero, two) "
    "shape = Concat<axis=0>(p, rest)",
    "zeros that are zeros": "v = Tanh(x) d = Shape(v) p = Slice(d, zero, two) "
    "shape = Concat<axis=0>(p, heads)",
}
CONSTANTS = {
    "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "far": np.array([2**63 - 1]),
    "i0": np.array(0), "i1": np.array(1),
    "heads": np.array([4, 8]), "rest": np.array([-1]), "swapped": np.array([1, 0]), "ones": np.array([1, 1]),
    "five": np.array([1, 5]),
    "last": np.array([-1]), "last2": np.array([-2]),
    "w": normal(np.random.default_rng(0), 32, 32), "b": normal(np.random.default_rng(1), 32),
    "many": normal(np.random.default_rng(2), 5, 32),
}  # fmt: skip


def reshaping(text):
    model = ir.from_proto(parse(HEAD + text + TAIL, CONSTANTS))
    infer_shapes(model)
    return model


def shape_of(model):
    return next(constant(node.inputs[1]) for node in model.graph if node.op_type == "Reshape")


@pytest.mark.parametrize(("text", "shape"), FIXED.values(), ids=list(FIXED))
def test_a_computed_shape_becomes_constant(text, shape, rng):
    model = reshaping(text)
    feeds = [{"x": normal(rng, n, s, 32), "other": normal(rng, 1, 1, 32)} for n, s in ((1, 1), (2, 5))]
    before = [run(model, each) for each in feeds]
    assert fix_reshapes(model)
    assert shape_of(model).tolist() == shape
    for each, expected in zip(feeds, before, strict=True):
        for a, b in zip(run(model, each), expected, strict=True):
            np.testing.assert_array_equal(a, b)


SWAP = (
    "v = Tanh(x4) d = Shape(v) lead = Slice(d, zero, two) l = Slice(d, last2, last) m = Slice(d, last, far) "
)
THREE = "three = Concat<axis=0>(rest, l, m) r3 = Reshape(v, three) "
SWAPPED = (
    SWAP + THREE + "t = Transpose<perm=[0,2,1]>(r3) four = Concat<axis=0>(lead, m, l) y = Reshape(t, four) "
)
NOT_SWAPPED = {
    "another order": SWAPPED.replace("[0,2,1]", "[1,0,2]"),
    "put together otherwise": SWAPPED.replace("(lead, m, l)", "(lead, l, m)"),
    "taken apart otherwise": SWAPPED.replace("(rest, l, m)", "(rest, m, l)"),
    "sizes of another input": SWAPPED.replace("d = Shape(v)", "d = Shape(other)"),
}


def swapping(text):
    ends = "g (float[n,h,s,e] x4, float[n,h,s,e] other) => (float[n,h,e,s] y, float u)"
    model = ir.from_proto(parse(f"{ends} {{ {text} u = ReduceMax<keepdims=0>(other) }}", CONSTANTS))
    infer_shapes(model)
    return model


def test_a_swap_by_way_of_three_axes_becomes_one_transpose(rng):
    model = swapping(SWAPPED)
    feeds = [
        {"x4": normal(rng, *shape), "other": normal(rng, 1, 1, 1, 1)}
        for shape in ((1, 2, 3, 4), (2, 1, 5, 3))
    ]
    before = [run(model, each) for each in feeds]
    assert fix_reshapes(model)
    passes.RemoveUnusedNodesPass()(model)
    assert [node.op_type for node in model.graph if node.op_type in ("Reshape", "Transpose", "Shape")] == [
        "Transpose"
    ]
    for each, expected in zip(feeds, before, strict=True):
        for a, b in zip(run(model, each), expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("text", NOT_SWAPPED.values(), ids=list(NOT_SWAPPED))
def test_what_is_no_swap_stays(text):
    model = swapping(text)
    assert not fix_reshapes(model)
    assert [node.op_type for node in model.graph].count("Reshape") == 2


@pytest.mark.parametrize("text", OTHER.values(), ids=list(OTHER))
def test_other_shapes_stay_computed(text):
    model = reshaping(text)
    if text == OTHER["zeros that are zeros"]:
        node = next(node for node in model.graph if node.op_type == "Reshape")
        node.attributes["allowzero"] = ir.AttrInt64("allowzero", 1)
    assert not fix_reshapes(model)
    assert shape_of(model) is None
