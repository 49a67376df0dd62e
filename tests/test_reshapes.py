"""Reshapes get constant shapes only where these are what is computed."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxq.model.edit import constant
from onnxq.model.normalize import infer_shapes
from onnxq.model.reshapes import fix_reshapes
from tests.conftest import normal, parse

# sizes that the file calls alike may differ: nothing may be concluded from their names
HEAD = "g (float[n,s,32] x, float[n,s,32] other) => (float y1, float y) { "
TAIL = " r = Reshape(v, shape) y = ReduceMax<keepdims=0>(r) y1 = ReduceMax<keepdims=0>(other) }"
FIXED = {
    "slices": ("v = Tanh(x) d = Shape(v) p = Slice(d, zero, two) shape = Concat<axis=0>(p, heads)", [0, 0, 4, 8]),
    "slice to the end": ("v = Tanh(x) d = Shape(v) p = Slice(d, zero, far) shape = Concat<axis=0>(p)", [0, 0, 0]),
    "sizes one by one": (
        "v = Tanh(x) d = Shape(v) n = Gather(d, i0) s = Gather(d, i1) n1 = Unsqueeze(n, zero) s1 = Unsqueeze(s, zero) "
        "shape = Concat<axis=0>(n1, s1, heads)", [0, 0, 4, 8],
    ),
    "of what was projected": ("m = MatMul(x, w) v = Add(m, b) d = Shape(x) p = Slice(d, zero, two) shape = Concat<axis=0>(p, heads)", [0, 0, 4, 8]),
    "flattened": ("v = Relu(x) d = Shape(x) p = Slice(d, zero, one) shape = Concat<axis=0>(p, rest)", [0, -1]),
}  # fmt: skip
OTHER = {
    "sizes of another input": "v = Tanh(x) d = Shape(other) p = Slice(d, zero, two) shape = Concat<axis=0>(p, heads)",
    "sizes in another order": "v = Tanh(x) d = Shape(x) p = Gather(d, swapped) shape = Concat<axis=0>(p, heads)",
    "a size that a product changes": "v = MatMul(x, w) d = Shape(x) p = Slice(d, two, far) shape = Concat<axis=0>(ones, p, rest)",
    "a sum that repeats rows": "v = Add(x, many) d = Shape(x) p = Slice(d, zero, two) q = Mul(p, five) shape = Concat<axis=0>(q, rest)",
    "rows that a sum repeats": "v = Add(x, many) d = Shape(x) p = Slice(d, zero, two) shape = Concat<axis=0>(p, rest)",
    "zeros that are zeros": "v = Tanh(x) d = Shape(v) p = Slice(d, zero, two) shape = Concat<axis=0>(p, heads)",
}
CONSTANTS = {
    "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "far": np.array([2**63 - 1]), "i0": np.array(0), "i1": np.array(1),
    "heads": np.array([4, 8]), "rest": np.array([-1]), "swapped": np.array([1, 0]), "ones": np.array([1, 1]), "five": np.array([1, 5]),
    "w": normal(np.random.default_rng(0), 32, 32), "b": normal(np.random.default_rng(1), 32), "many": normal(np.random.default_rng(2), 5, 32),
}  # fmt: skip


def reshaping(text):
    model = ir.from_proto(parse(HEAD + text + TAIL, CONSTANTS))
    infer_shapes(model)
    return model


def run(model, feeds):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]).run(["y"], feeds)[0]


def shape_of(model):
    return next(constant(node.inputs[1]) for node in model.graph if node.op_type == "Reshape")


@pytest.mark.parametrize(("text", "shape"), FIXED.values(), ids=list(FIXED))
def test_a_computed_shape_becomes_constant(text, shape, rng):
    model = reshaping(text)
    feeds = [{"x": normal(rng, n, s, 32), "other": normal(rng, 1, 1, 32)} for n, s in ((1, 1), (2, 5))]
    before = [run(model, each) for each in feeds]
    assert fix_reshapes(model) == 1
    assert shape_of(model).tolist() == shape
    for each, expected in zip(feeds, before, strict=True):
        np.testing.assert_array_equal(run(model, each), expected)


@pytest.mark.parametrize("text", OTHER.values(), ids=list(OTHER))
def test_other_shapes_stay_computed(text):
    model = reshaping(text)
    if text == OTHER["zeros that are zeros"]:
        node = next(node for node in model.graph if node.op_type == "Reshape")
        node.attributes["allowzero"] = ir.AttrInt64("allowzero", 1)
    assert fix_reshapes(model) == 0
    assert shape_of(model) is None
