"""Pad and Resize with axes become the same operators over all axes."""

import numpy as np
import pytest

from onnxq.errors import ModelError
from onnxq.normalize.passes import normalize
from tests.conftest import Quantized, normal, parse, run, to_ir

I = np.int64  # noqa: E741
CASES = {
    "pad": ("y = Pad(x, p, , a)", {"p": I([1, 2, 2, 1]), "a": I([-1, 2])}),
    "pad with a value": ("y = Pad(x, p, c, a)", {"p": I([1, 2]), "c": np.float32(3), "a": I([3])}),
    "reflected": ('y = Pad<mode="reflect">(x, p, , a)', {"p": I([1, 2]), "a": I([2])}),
    "computed pads": ("q = Mul(n, p) y = Pad(x, q, , a)", {"p": I([1, 2]), "a": I([2])}),
    "scales": ('y = Resize<mode="linear", axes=[2,3]>(x, , s)', {"s": np.float32([2, 1.5])}),
    "other order": ('y = Resize<mode="nearest", axes=[-1,2]>(x, , s)', {"s": np.float32([2, 1.5])}),
    "sizes": ('y = Resize<mode="nearest", axes=[3,2]>(x, , , z)', {"z": I([9, 14])}),
    "computed sizes": ('q = Mul(n, z) y = Resize<mode="cubic", axes=[2]>(x, , , q)', {"z": I([9])}),
    "a region": (
        'y = Resize<mode="linear", axes=[2], coordinate_transformation_mode="tf_crop_and_resize">(x, r, s)',
        {"r": np.float32([0.1, 0.8]), "s": np.float32([2])},
    ),
}


@pytest.mark.parametrize("batch", ["2", "N"])
@pytest.mark.parametrize("name", list(CASES))
def test_axes_vanish_and_outputs_stay(rng, name, batch):
    text, constants = CASES[name]
    model = parse(f"g (float[{batch},4,8,9] x, int64 n) => (float y) {{ {text} }}", constants, opset=18)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    feeds = {"x": normal(rng, 2, 4, 8, 9), "n": np.array(1)}
    try:
        run(model, feeds)
    except ModelError:
        pytest.skip("this ONNX Runtime does not take the model")
    normalized = normalize(to_ir(model))
    assert not any("axes" in node.attributes or len(node.inputs) > 4 for node in normalized.graph)
    assert np.array_equal(run(model, feeds)[0], run(normalized, feeds)[0])


@pytest.mark.parametrize("body", ["b = Pad(a, p, , ax)", 'b = Resize<mode="nearest", axes=[2,3]>(a, , s)', 'b = Resize<mode="linear", axes=[2,3]>(a, , , z)'])  # fmt: skip
@pytest.mark.parametrize("qoperator", [False, True])
def test_between_integer_convolutions_the_runtime_takes_them(rng, body, qoperator):
    constants = {"p": I([1, 1, 2, 0]), "ax": I([2, 3]), "s": np.float32([2, 2]), "z": I([13, 17])}
    used = {name: array for name, array in constants.items() if f" {name})" in body or f" {name}," in body}
    used |= {"w": normal(rng, 4, 4, 1, 1), "v": normal(rng, 4, 4, 1, 1)}
    text = f"g (float[1,4,8,9] x) => (float y) {{ a = Conv(x, w) {body} y = Conv(b, v) }}"
    model = parse(text, used, opset=18)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    quantized = Quantized(model, [{"x": normal(rng, 1, 4, 8, 9)} for _ in range(3)], qoperator=qoperator)
    error, difference = quantized.errors()
    assert error < 0.06
    assert difference < 0.012
