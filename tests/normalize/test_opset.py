"""Operators whose meaning changes between opsets compute after the conversion what they did before."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.graph.shapes import infer_shapes, opset_of
from onnxq.normalize.opset import LEAST_OPSET, lift_opset
from onnxq.normalize.passes import normalize
from onnxq.plan.constraints import refusal
from tests.conftest import normal, parse, run, to_ir

WHOLE, LARGER, SMALLER, MIXED = (1, 1, 2, 2), (1, 1, 2.3, 1.7), (1, 1, 0.7, 0.3), (1, 1, 0.6, 1.9)
NORM = ("s", "t", "m", "v")


def scales(numbers):
    return {"k": np.float32(numbers)}


def vectors(names, shape=(4,)):
    random = np.random.default_rng(1)
    return {name: random.random(shape).astype(np.float32) + 0.5 for name in names}


def in_body(node):
    return f"""y = If (c) <then_branch = t () => (float p) {{ p = {node} }},
                           else_branch = e () => (float q) {{ q = Neg(x) }}>"""


CASES = [
    *((7, f"y = Upsample<mode=\"{m}\", scales=[1.0,1.0,{h},{w}]>(x)", {}) for m in ("nearest", "linear") for h, w in ((2.0, 2.0), (2.3, 1.7))),
    *((9, f"y = Upsample<mode=\"{m}\">(x, k)", scales(s)) for m in ("nearest", "linear") for s in (WHOLE, LARGER)),
    *((10, f"y = Resize<mode=\"{m}\">(x, k)", scales(s)) for m in ("nearest", "linear") for s in (WHOLE, LARGER, SMALLER)),
    (10, "y = Resize<mode=\"linear\">(x, k)", scales(MIXED)),
    (10, "s = Mul(k, u) y = Resize<mode=\"linear\">(x, s)", scales(WHOLE) | {"u": np.ones(4, np.float32)}),
    *((o, f"y = {op}{a}(x)", {}) for op in ("Softmax", "LogSoftmax", "Hardmax") for o, a in ((7, ""), (7, "<axis=2>"), (11, "<axis=0>"), (11, "<axis=-1>"), (11, "<axis=-3>"))),
    *((7, f"y = Pad<mode=\"{m}\", pads=[0,0,1,2,0,0,2,1], value=1.5>(x)", {}) for m in ("constant", "reflect", "edge")),
    (7, "y = Clip<min=-0.5, max=0.7>(x)", {}),
    (10, "y = Clip<max=0.5>(x)", {}),
    (7, "y = BatchNormalization<epsilon=0.01>(x, s, t, m, v)", vectors(NORM)),
    (7, "y = Dropout<ratio=0.3>(x)", {}),
    (7, "y = DepthToSpace<blocksize=2>(x)", {}),
    (7, "y = Slice<axes=[1,2], starts=[1,-3], ends=[3,1000]>(x)", {}),
    (7, "y, z = Split<axis=1>(x)", {}),
    (7, "u = Unsqueeze<axes=[0,3]>(x) y = Squeeze<axes=[0]>(u)", {}),
    (7, "y, i = TopK<k=3, axis=2>(x)", {}),
    (7, "y = ReduceSum<axes=[1,3]>(x)", {}),
    (10, "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2], count_include_pad=1, ceil_mode=1>(x)", {}),
    (7, "y = ConvTranspose<auto_pad=\"SAME_LOWER\", strides=[2,2]>(x, w)", vectors("w", (4, 3, 3, 3))),
    (9, in_body("Hardmax<axis=1>(x)"), {"c": np.array(True)}),
    (10, in_body("Resize<mode=\"linear\">(x, k)"), scales(WHOLE) | {"c": np.array(True)}),
    (11, in_body("Unsqueeze<axes=[0]>(x)"), {"c": np.array(True)}),
]  # fmt: skip


def before_and_after(text, constants, rng, opset, least=LEAST_OPSET):
    second = ", float z" if "y, z" in text else ", int64 i" if "y, i" in text else ""
    model = parse(
        f"g (float[2,4,7,6] x) => (float y{second}) {{ {text} }}", constants, opset=opset, ir_version=8
    )
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    feeds = {"x": normal(rng, 2, 4, 7, 6)}
    wanted = run(model, feeds)
    lifted = lift_opset(normalize(to_ir(model)), least)
    infer_shapes(lifted)
    for a, b in zip(wanted, run(lifted, feeds), strict=True):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()
    return opset_of(lifted)


@pytest.mark.parametrize(("opset", "text", "constants"), CASES)
def test_a_lifted_operator_computes_the_same(rng, opset, text, constants):
    assert before_and_after(text, constants, rng, opset) == LEAST_OPSET


@pytest.mark.parametrize(
    ("opset", "text", "constants"),
    [
        (10, 'y = Resize<mode="nearest">(x, k)', scales(MIXED)),  # no mode is the same in both directions
        (8, "y = BatchNormalization<spatial=0>(x, s, t, m, v)", vectors(NORM, (4, 7, 6))),
        (8, "y = Scan<num_scan_inputs=1, body = b (float[7,6] s) => (float[7,6] t) { t = Neg(s) }>(, x)", {}),
    ],
)
def test_what_no_newer_operator_computes_keeps_its_opset(rng, opset, text, constants):
    assert before_and_after(text, constants, rng, opset) == opset


@pytest.mark.parametrize(
    ("opset", "text", "constants"),
    [
        (18, "y = GroupNormalization<num_groups=2>(x, s, b)", {"s": np.float32([1, 3]), "b": np.float32([0, 1])}),
        (18, "y = GroupNormalization<num_groups=1>(x, s, b)", {"s": np.float32([2]), "b": np.float32([1])}),
        (20, "s = Add(b, b) y = GroupNormalization<num_groups=2, epsilon=0.1>(x, s, b)", {"b": np.float32([1, 3])}),
        (18, in_body("GroupNormalization<num_groups=2>(x, s, b)"), {"s": np.float32([1, 3]), "b": np.float32([0, 1]), "c": np.array(True)}),
        (13, "y = RoiAlign<output_height=3, output_width=3>(x, r, i)", {"r": np.float32([[0, 0, 5, 5]]), "i": np.int64([1])}),
        (16, 'y = GridSample<mode="bicubic">(x, g)', {"g": np.linspace(-1, 1, 60, dtype=np.float32).reshape(2, 5, 3, 2)}),
        (13, "y, z = Split<axis=1>(x)", {}),
        (13, "y = ReduceMean<axes=[1,3]>(x)", {}),
        (9, 'y = Upsample<mode="linear">(x, k)', scales(WHOLE)),
    ],
)  # fmt: skip
def test_the_opset_of_blocks_computes_the_same(rng, opset, text, constants):
    assert before_and_after(text, constants, rng, opset, 21) == 21


def test_group_normalization_of_unknown_channels_repeats_its_scale_at_run_time(rng):
    text = "g (float[N,C,L] x) => (float[N,C,L] y) { y = GroupNormalization<num_groups=2>(x, s, b) }"
    model = parse(text, {"s": np.float32([1, 3]), "b": np.float32([0, 1])}, opset=18)
    lifted, feeds = lift_opset(to_ir(model), 21), {"x": normal(rng, 2, 6, 5)}
    assert np.allclose(run(model, feeds)[0], run(lifted, feeds)[0], atol=1e-6)


def test_an_unknown_shape_stays_unknown(rng):
    model = parse("g (float[2,4] x) => (float[2,4] y) { h = Neg(x) y = Abs(h) }", opset=9, ir_version=4)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.ClearField("shape")
    lifted = lift_opset(to_ir(model))
    assert opset_of(lifted) == LEAST_OPSET
    assert [value.shape for value in (*lifted.graph.inputs, *lifted.graph.outputs)] == [None, None]
    assert isinstance(lifted.graph.inputs[0].type, ir.TensorType)


def test_constants_that_are_no_inputs_are_lifted_before_version_4_of_the_format(rng):
    text = "g (float[2,4,7,6] x) => (float[2,4,7,6] y) { y = Conv<pads=[1,1,1,1]>(x, w) }"
    model = parse(text, {"w": normal(rng, 4, 4, 3, 3)}, opset=7, ir_version=3)
    feeds = {"x": normal(rng, 2, 4, 7, 6)}
    lifted = normalize(to_ir(model))
    assert opset_of(lifted) == LEAST_OPSET
    assert np.allclose(run(model, feeds)[0], run(lifted, feeds)[0], atol=1e-5)


def test_a_norm_of_single_pixels_stays_behind_a_convolution(rng):
    """Opsets 7 and 8 allow it; nothing newer computes it, and its convolution has no integer kernel there."""
    text = """g (float[2,4,7,6] x) => (float[2,4,7,6] y)
    { h = Conv<pads=[1,1,1,1]>(x, w) n = BatchNormalization<spatial=0>(h, s, t, m, v) y = Relu(n) }"""
    constants = {"w": normal(rng, 4, 4, 3, 3)} | vectors(NORM, (4, 7, 6))
    model, feeds = parse(text, constants, opset=8, ir_version=4), {"x": normal(rng, 2, 4, 7, 6)}
    normalized = normalize(to_ir(model))
    assert np.allclose(run(model, feeds)[0], run(normalized, feeds)[0], atol=1e-5)
    (conv,) = (node for node in normalized.graph if node.op_type == "Conv")
    assert "needs opset 10, the model has 8" in (refusal(conv, opset_of(normalized)) or "")
