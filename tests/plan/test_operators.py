"""Every row of the operator table, checked against the installed runtime.

Each case puts the operator between convolutions or products, quantizes the model, and reads the
optimized graph: the kernel that the row names must run, and no Q/DQ pair may be left around it.
"""

import numpy as np
import pytest

from onnxq.plan.operators import OPERATORS, Role
from tests.conftest import Quantized, normal, parse

CONV_HEAD = "g (float[1,4,8,8] x) => (float[1,M,A,B] y) { a = Conv(x, w) "
CONV_TAIL = " y = Conv(b, v) }"
CASES = {
    "Conv": "b = Relu(a)",
    "Add": "c = Conv(x, v) b = Add(a, c)",
    "Mul": "c = Conv(x, v) b = Mul(a, c)",
    "Concat": "c = Conv(x, v) d = Concat<axis=2>(a, c) b = Relu(d)",
    "AveragePool": "b = AveragePool<kernel_shape=[2,2], strides=[2,2]>(a)",
    "GlobalAveragePool": "b = GlobalAveragePool(a)",
    "LeakyRelu": "b = LeakyRelu<alpha=0.1>(a)",
    "Sigmoid": "b = Sigmoid(a)",
    "HardSigmoid": "d = HardSigmoid(a) b = Mul(a, d)",
    "Reshape": "b = Reshape(a, r2)",
    "Transpose": "b = Transpose<perm=[0,1,3,2]>(a)",
    "Flatten": "c = Flatten<axis=2>(a) b = Reshape(c, r)",
    "Squeeze": "c = Squeeze(a, zero) b = Unsqueeze(c, zero)",
    "Unsqueeze": "c = Unsqueeze(a, zero) b = Squeeze(c, zero)",
    "Slice": "b = Slice(a, starts, ends, axes)",
    "Gather": "b = Gather<axis=2>(a, index)",
    "Split": "s, t = Split<axis=2, num_outputs=2>(a) b = Concat<axis=3>(s, t)",
    "Expand": "c = Slice(a, starts, ends, axes) d = GlobalAveragePool(c) b = Expand(d, r)",
    "Tile": "b = Tile(a, repeats)",
    "DepthToSpace": "c = DepthToSpace<blocksize=2>(a) b = Conv(c, u)",
    "MaxPool": "b = MaxPool<kernel_shape=[2,2]>(a)",
    "Resize": "b = Resize<mode=\"nearest\">(a, , scales)",
}  # fmt: skip
PRODUCTS = {
    "Gemm": "g (float[3,8] x) => (float[3,6] y) { h = Gemm(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2) }",
    "MatMul": "g (float[2,3,8] x) => (float[2,3,6] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }",
}


def test_every_row_has_a_case():
    assert set(CASES) | set(PRODUCTS) == {
        row.op_type for row in OPERATORS.values() if row.role is not Role.CLAMP
    }


def constants(rng):
    return {
        "w": normal(rng, 4, 4, 1, 1), "v": normal(rng, 4, 4, 1, 1), "u": normal(rng, 4, 1, 1, 1),
        "r2": np.int64([1, 4, 4, 16]), "r": np.int64([1, 4, 8, 8]), "zero": np.int64([0]), "starts": np.int64([1]), "ends": np.int64([7]), "axes": np.int64([2]),
        "index": np.int64([0, 2, 4]), "repeats": np.int64([1, 1, 2, 1]), "scales": np.float32([1, 1, 2, 2]),
    }  # fmt: skip


@pytest.mark.parametrize("qoperator", [False, True], ids=["qdq", "qoperator"])
@pytest.mark.parametrize("op_type", list(CASES))
def test_operator_between_convolutions(rng, tmp_path, op_type, qoperator):
    text = CONV_HEAD + CASES[op_type] + CONV_TAIL
    used = {
        name: array
        for name, array in constants(rng).items()
        if name in text.replace("(", " ").replace(",", " ").replace(")", " ").split()
    }
    quantized = Quantized(
        parse(text, used, opset=18), [{"x": normal(rng, 1, 4, 8, 8)} for _ in range(3)], qoperator=qoperator
    )
    row = OPERATORS[op_type]
    assert op_type in [planned.node.op_type for planned in quantized.plan.nodes.values()]
    counts = quantized.kernels(tmp_path)
    folded_by_runtime = {"Flatten", "Squeeze", "Unsqueeze"}  # two of them in a row cancel
    if op_type not in folded_by_runtime:
        assert counts.get(row.kernel, 0) + counts.get(f"Nhwc{row.kernel}", 0) >= 1, counts
    assert counts["QuantizeLinear"] == counts["DequantizeLinear"] == 1, counts
    error, difference = quantized.errors()
    assert error < 0.06
    assert difference < 0.012  # about one step of the output's 255


@pytest.mark.parametrize("qoperator", [False, True], ids=["qdq", "qoperator"])
@pytest.mark.parametrize("op_type", list(PRODUCTS))
def test_products(rng, tmp_path, op_type, qoperator):
    used = {"w1": normal(rng, 8, 16), "w2": normal(rng, 16, 6)}
    if op_type == "Gemm":
        used |= {"b1": normal(rng, 16), "b2": normal(rng, 6)}
    shape = (3, 8) if op_type == "Gemm" else (2, 3, 8)
    quantized = Quantized(
        parse(PRODUCTS[op_type], used), [{"x": normal(rng, *shape)} for _ in range(3)], qoperator=qoperator
    )
    counts = quantized.kernels(tmp_path)
    assert counts[OPERATORS[op_type].kernel] >= 1
    assert counts.get("Relu", 0) == 0
    assert counts.get("QuantizeLinear") == 1
    assert "DequantizeLinear" not in counts, "the last product gives float itself"
    error, difference = quantized.errors()
    assert error < 0.05
    assert difference < 1e-5


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (0.0, None), (-1.0, 1.0), (-0.4, None), (None, 2.5)])
@pytest.mark.parametrize("qoperator", [False, True], ids=["qdq", "qoperator"])
def test_clamps_disappear_into_the_output_range(rng, tmp_path, low, high, qoperator):
    bounds = {name: np.float32(value) for name, value in (("lo", low), ("hi", high)) if value is not None}
    text = (
        CONV_HEAD
        + f"b = Clip(a, {'lo' if low is not None else ''}, {'hi' if high is not None else ''})"
        + CONV_TAIL
    )
    text = text.replace(", )", ")")
    quantized = Quantized(
        parse(text, {k: v for k, v in constants(rng).items() if k in "wv"} | bounds),
        [{"x": 3 * normal(rng, 1, 4, 8, 8)}],
        qoperator=qoperator,
    )
    counts = quantized.kernels(tmp_path)
    assert counts["QLinearConv"] == 2
    assert "Clip" not in counts
    assert quantized.errors()[0] < 0.06


@pytest.mark.parametrize(("low", "high"), [(1.0, 6.0), (-6.0, -1.0)])
def test_other_clamps_stay_and_are_right(rng, tmp_path, low, high):
    text = CONV_HEAD + "b = Clip(a, lo, hi)" + CONV_TAIL
    used = {k: v for k, v in constants(rng).items() if k in "wv"} | {
        "lo": np.float32(low),
        "hi": np.float32(high),
    }
    quantized = Quantized(parse(text, used), [{"x": 3 * normal(rng, 1, 4, 8, 8)}])
    assert quantized.kernels(tmp_path)["QLinearConv"] == 2
    assert quantized.errors()[0] < 0.06
