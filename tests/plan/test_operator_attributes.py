"""Every row of the operator table with the attributes of its specification, against float.

A form that is planned must be one that the runtime runs and that computes the same; a form whose integer
kernel computes something else must not be planned.
"""

import re

import numpy as np
import pytest

from onnxq.graph.edit import nodes_of
from onnxq.normalize.passes import normalize
from onnxq.plan.operators import OPERATORS
from onnxq.plan.plan import make_plan
from tests.conftest import Quantized, normal, parse, to_ir

TWO = "kernel_shape=[3,3], strides=[2,2]"
RESIZE = 'b = Resize<mode="nearest", coordinate_transformation_mode="{}", nearest_mode="{}">(a, , s)'
PLANNED = [
    *(f"b = {op}<{more}>(a)" for op in ("AveragePool", "MaxPool") for more in (
        "kernel_shape=[2,3], pads=[0,1,1,1]", f"{TWO}, ceil_mode=1", f"{TWO}, pads=[1,1,1,1], ceil_mode=1",
        f'{TWO}, auto_pad="SAME_UPPER"', f'{TWO}, auto_pad="SAME_LOWER", ceil_mode=1', f'{TWO}, auto_pad="VALID"',
    )),
    f"b = AveragePool<{TWO}, pads=[1,1,1,1], count_include_pad=1>(a)",
    f'b = AveragePool<{TWO}, auto_pad="SAME_LOWER", count_include_pad=1>(a)',
    "b = MaxPool<kernel_shape=[2,2], dilations=[2,2], storage_order=1>(a)",
    *(f"b = Conv<{more}>(a, k)" for more in ("strides=[2,2]", "pads=[1,0,1,2]", "dilations=[2,1]", 'auto_pad="SAME_LOWER"', "group=2")),
    *(RESIZE.format(*modes) for modes in (
        ("half_pixel", "round_prefer_floor"), ("half_pixel_symmetric", "ceil"), ("pytorch_half_pixel", "floor"),
        ("align_corners", "round_prefer_ceil"), ("asymmetric", "floor"),
    )),
    'b = Resize<mode="nearest", keep_aspect_ratio_policy="not_larger">(a, , , z)',
    'b = Resize<mode="nearest", axes=[2,3]>(a, , , z2)',
    "b = Reshape<allowzero=1>(a, r)",
    "b = Transpose<perm=[0,1,3,2]>(a)",
    "c = Flatten<axis=-2>(a) b = Reshape(c, r)",
    "c = Squeeze(a) b = Reshape(c, r)",
    "c = Unsqueeze(a, m) b = Squeeze(c, m)",
    "b = Slice(a, i1, e1, m, st)",
    "c = Gather<axis=-2>(a, i0) b = Unsqueeze(c, i2)",
    "p, q = Split<axis=-2, num_outputs=2>(a) b = Concat<axis=-2>(q, p)",
    "p, q, u = Split<axis=3, num_outputs=3>(a) b = Concat<axis=3>(q, p, u)",
    "c = Slice(a, i0, i1, i2) b = Expand(c, r)",
    "b = Tile(a, rep)",
    *(f'c = DepthToSpace<blocksize=2, mode="{mode}">(a) b = Conv(c, one)' for mode in ("DCR", "CRD")),
    *(f"b = LeakyRelu<alpha={alpha}>(a)" for alpha in (-0.5, 0.0, 1.5)),
    *(f"h = HardSigmoid<alpha={a}, beta={b}>(a) b = Mul(a, h)" for a, b in ((0.5, 0.2), (0.5, 1.5))),
    "b = Sigmoid(a)",
    "c = GlobalAveragePool(a) d = Conv(c, v) b = Add(d, a)",
    "b = Concat<axis=2>(a, k4)",
    "b = Concat<axis=1>(a)",
    "b = Add(k3, a)",
    "b = Mul(a, a)",
]  # fmt: skip
FLOAT = [
    (f"b = AveragePool<{TWO}, ceil_mode=1, count_include_pad=1>(a)", "divides by other counts"),
    (f"b = AveragePool<{TWO}, pads=[1,1,1,1], ceil_mode=1, count_include_pad=1>(a)", "divides by other counts"),
    ("b = AveragePool<kernel_shape=[2,2], dilations=[2,2]>(a)", "takes no dilations"),
    ("b = AveragePool<kernel_shape=[2,2], dilations=[1,1]>(a)", "takes no dilations"),
    (RESIZE.format("tf_crop_and_resize", "floor").replace("(a, ,", "(a, roi,"), "another value than zero"),
    ('b = Resize<mode="linear">(a, , s)', "only nearest-neighbour"),
    ("c, i = MaxPool<kernel_shape=[2,2]>(a) j = Cast<to=1>(i) b = Add(c, j)", "MaxPool with indices"),
    ("h = HardSigmoid<alpha=0.5, beta=-0.2>(a) b = Mul(a, h)", "does not start left of zero"),
]  # fmt: skip


def constants(rng):
    return {
        "w": normal(rng, 4, 4, 1, 1), "v": normal(rng, 4, 4, 1, 1), "one": normal(rng, 4, 1, 1, 1),
        "k": normal(rng, 4, 4, 2, 2), "k3": normal(rng, 8, 1), "k4": normal(rng, 1, 4, 2, 9), "bb": normal(rng, 4) + 1,
        "s": np.float32([1, 1, 1.7, 0.6]), "z": np.int64([1, 4, 16, 15]), "z2": np.int64([16, 15]), "roi": np.float32([0, 0, -0.2, 0.1, 1, 1, 1.2, 0.9]),
        "r": np.int64([1, 4, 8, 9]), "m": np.int64([-1]), "i0": np.int64(0), "i1": np.int64([-1]), "i2": np.int64([2]), "e1": np.int64([-100]), "st": np.int64([-2]),
        "rep": np.int64([1, 1, 2, 1]),
    }  # fmt: skip


def model(body, rng, opset=19):
    text = f"g (float[1,4,8,9] x) => (float y) {{ a = Conv(x, w, bb) {body} y = Conv(b, v) }}"
    words = set(re.findall(r"\w+", text))
    used = {name: array for name, array in constants(rng).items() if name in words}
    if "group=2" in body:
        used["k"] = used["k"][:, :2]
    if "Gather" not in body and "i0" in used:
        used["i0"], used["i1"] = np.int64([0]), np.int64([1])
    made = parse(text, used, opset=opset)
    made.graph.output[0].type.tensor_type.ClearField("shape")
    return made


@pytest.mark.parametrize("qoperator", [False, True], ids=["qdq", "qoperator"])
@pytest.mark.parametrize("body", PLANNED)
def test_a_planned_form_computes_as_float(rng, body, qoperator):
    feeds = [{"x": normal(rng, 1, 4, 8, 9)} for _ in range(4)]
    quantized = Quantized(model(body, rng), feeds, qoperator=qoperator)
    assert not [
        node
        for node in nodes_of(quantized.float)
        if node.op_type in OPERATORS and node.name in quantized.plan.floats
    ]
    error, difference = quantized.errors()
    assert error < 0.06
    assert difference < 0.02


@pytest.mark.parametrize(("body", "reason"), FLOAT)
def test_a_form_that_integers_compute_otherwise_stays_float(rng, body, reason):
    plan = make_plan(normalize(to_ir(model(body, rng))))
    assert any(reason in why.text for _, why in plan.floats.values())
    assert all(
        planned.node.op_type == "Conv" for planned in plan.nodes.values() if planned.node.op_type != "Mul"
    )


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize(
    "operator",
    ["AveragePool<{}>(a)", "MaxPool<{}>(a)", "GlobalAveragePool(a)", "Resize(a, , s)", "Conv<{}>(a, k)"],
)
def test_other_numbers_of_axes(rng, operator, axes):
    sizes, ones = [4, 5, 6][:axes], [1] * axes
    twos = ",".join(["2"] * axes)
    attributes = f"strides=[{twos}]" if "Conv" in operator else f"kernel_shape=[{twos}], strides=[{twos}]"
    text = f"g (float[{','.join(map(str, [1, 4, *sizes]))}] x) => (float y) {{ a = Conv(x, w) b = {operator.format(attributes)} y = Conv(b, v) }}"
    used = {name: normal(rng, 4, 4, *ones) for name in "wv"}
    if "(a, k)" in text:
        used["k"] = normal(rng, 4, 4, *[2] * axes)
    if ", s)" in text:
        used["s"] = np.float32([1, 1, *[2] * axes])
    made = parse(text, used, opset=18)
    made.graph.output[0].type.tensor_type.ClearField("shape")
    quantized = Quantized(made, [{"x": normal(rng, 1, 4, *sizes)} for _ in range(4)])
    assert len(quantized.plan.nodes) == 3
    error, difference = quantized.errors()
    assert error < 0.06
    assert difference < 0.02
