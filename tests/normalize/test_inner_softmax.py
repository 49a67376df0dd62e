"""A Softmax over an inner axis runs with the axes behind it as one."""

import numpy as np
import pytest

from onnxq.normalize.passes import normalize
from tests.conftest import normal, parse, run, to_ir

FLATTENED = {
    "classes of pixels": ("float[1,5,6,7]", "y = Softmax<axis=1>(x)"),
    "unknown batch": ("float[N,5,6,7]", "y = Softmax<axis=1>(x)"),
    "unknown height and width": ("float[1,5,H,W]", "y = Softmax<axis=1>(x)"),
    "one unknown size": ("float[N,5,6,W]", "y = Softmax<axis=-3>(x)"),
    "first axis": ("float[1,5,6,7]", "y = Softmax<axis=0>(x)"),
    "logarithms": ("float[1,5,6,7]", "y = LogSoftmax<axis=1>(x)"),
    "in the middle": ("float[1,5,6,7]", "a = Tanh(x) b = Softmax<axis=1>(a) y = Tanh(b)"),
    "used twice": ("float[1,5,6,7]", "a = Softmax<axis=1>(x) b = Tanh(a) y = Mul(a, b)"),
}
KEPT = {
    "last axis": ("float[1,5,6,7]", "y = Softmax<axis=-1>(x)"),
    "one axis behind it": ("float[1,5,6,7]", "y = Softmax<axis=2>(x)"),
    "single places": ("float[N,5,1,1]", "y = Softmax<axis=1>(x)"),
    "between transposes": (
        "float[1,5,6,7]",
        "a = Transpose<perm=[0,3,1,2]>(x) b = Softmax<axis=1>(a) y = Transpose<perm=[0,2,3,1]>(b)",
    ),
}


def parsed(kind, text, opset=17):
    model = parse(f"g ({kind} x) => (float y) {{ {text} }}", {}, opset=opset)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def reshapes(model):
    return sum(node.op_type == "Reshape" for node in model.graph)


@pytest.mark.parametrize("batch", [1, 0])
@pytest.mark.parametrize("name", list(FLATTENED))
def test_axes_behind_become_one(rng, name, batch):
    kind, text = FLATTENED[name]
    if batch == 0 and "N" not in kind:
        pytest.skip("the batch is fixed")
    model = parsed(kind, text)
    normalized = normalize(to_ir(model))
    assert reshapes(normalized) == 2
    x = normal(rng, batch, *([1, 1, 1] if "1,1,1" in kind else [5, 6, 7]))
    before, after = run(model, {"x": x})[0], run(normalized, {"x": x})[0]
    assert before.shape == after.shape
    assert np.array_equal(before, after)


@pytest.mark.parametrize("name", list(KEPT))
def test_others_stay(name):
    assert reshapes(normalize(to_ir(parsed(*KEPT[name])))) == 0


def test_the_old_softmax_over_all_axes_stays():
    assert reshapes(normalize(to_ir(parsed("float[1,5,6,7]", "y = Softmax<axis=1>(x)", 11)), lift=False)) == 0
