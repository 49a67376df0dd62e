"""Lines 1 to 14: products, their weights and biases, and clamping behind them."""

import numpy as np

from tests.checklist.case import PAD, Case, cnn, gemm, images, line
from tests.conftest import normal, parse


@line(1, "Gemm with beta")
def _(rng):
    return gemm(rng, "y = Gemm<beta=0.3>(x, w, c)", {"w": (8, 4), "c": (4,)}, {"QGemm": 1})


@line(2, "Gemm with alpha, QOperator")
def _(rng):
    return gemm(
        rng,
        "y = Gemm<alpha=2.5>(x, w, c)",
        {"w": (8, 4), "c": (4,)},
        {"QGemm": 1},
        options={"format": "qoperator"},
    )


@line(3, "Gemm with transA")
def _(rng):
    model = parse(
        "g (float[8,5] x) => (float[5,4] y) { y = Gemm<transA=1>(x, w, c) }",
        {"w": normal(rng, 8, 4), "c": normal(rng, 4)},
    )
    return Case(model, images(rng, 8, 5), {"QGemm": 1})


for _shape in ((1, 4), (5, 4), (5, 1), (), (1,)):

    @line(4, f"Gemm with C of shape {_shape}")
    def _(rng, shape=_shape):
        return gemm(rng, "y = Gemm(x, w, c)", {"w": (8, 4), "c": shape}, {"QGemm": 1})


@line(5, "MatMul with a weight of three axes")
def _(rng):
    text = "g (float[3,5,8] x) => (float[3,5,6] y) { h = MatMul(x, w) y = MatMul(h, v) }"
    model = parse(text, {"w": normal(rng, 3, 8, 7), "v": normal(rng, 7, 6)})
    return Case(model, images(rng, 3, 5, 8), {"MatMulIntegerToFloat": 1})


@line(6, "MatMul with a vector, and with a constant on the left")
def _(rng):
    text = "g (float[5,8] x) => (float[6] y) { a = MatMul(left, x) b = MatMul(a, w) y = MatMul(b, v) }"
    model = parse(text, {"left": normal(rng, 6, 5), "w": normal(rng, 8, 7), "v": normal(rng, 7)})
    return Case(model, images(rng, 5, 8), {"MatMulIntegerToFloat": 1})


@line(7, "one Gemm weight used plain and transposed")
def _(rng):
    text = "g (float[5,8] x) => (float[5,8] y) { h = Gemm(x, w) r = Relu(h) y = Gemm<transB=1>(r, w) }"
    return Case(
        parse(text, {"w": normal(rng, 8, 8) * np.arange(1, 9, dtype=np.float32)}),
        images(rng, 5, 8),
        {"QGemm": 2},
    )


@line(8, "a transposed weight shared by two Gemms")
def _(rng):
    text = (
        "g (float[5,8] x) => (float[5,8] y) { h = Gemm<transB=1>(x, w) r = Tanh(h) y = Gemm<transB=1>(r, w) }"
    )
    return Case(parse(text, {"w": normal(rng, 8, 8)}), images(rng, 5, 8), {"QGemm": 2})


@line(9, "one bias under different scales")
def _(rng):
    return cnn(rng, f"h = Conv{PAD}(x, w1, b) r = Relu(h) y = Conv{PAD}(r, w2, b)", 2)


@line(10, "a weight shared with an excluded node")
def _(rng):
    case = cnn(
        rng, f"h = Conv{PAD}(x, w1, b) r = Relu(h) y = Conv{PAD}(r, w1, b)", 1, options={"exclude": ("keep",)}
    )
    case.model.graph.node[0].name = "keep"
    return case


@line(11, "node names that are empty")
def _(rng):
    case = cnn(
        rng, f"h = Conv{PAD}(x, w1) r = Relu(h) i = Conv{PAD}(r, w2) s = Relu(i) y = Conv{PAD}(s, w3)", 3
    )
    for node, name in zip(case.model.graph.node, ("one", "", "two", "", ""), strict=True):
        node.name = name
    return case


@line(11, "node names that are the same, which the runtime itself refuses")
def _(rng):
    case = cnn(
        rng, f"h = Conv{PAD}(x, w1) y = Conv{PAD}(h, w2)", 2, says="two nodes with same node name (same)"
    )
    for node in case.model.graph.node:
        node.name = "same"
    return case


QOPERATOR = {"format": "qoperator", "skip_slow_nodes": False}
"""Options for integer kernels throughout, faster than float or not."""


@line(12, "empty optional inputs of Conv, Clip and Resize")
def _(rng):
    text = f"""h = Conv{PAD}(x, w1) c = Clip(h, , six) i = Conv{PAD}(c, w2)
        u = Resize<mode="nearest">(i, , scales) y = Conv<pads=[1,1,1,1], strides=[2,2]>(u, w3)"""
    case = cnn(
        rng, text, 3, extra={"six": np.float32(6), "scales": np.float32([1, 1, 2, 2])}, options=QOPERATOR
    )
    case.model.graph.node[0].input.append("")
    return case


for _low, _high in ((1.0, 6.0), (-6.0, -1.0), (-0.5, 0.5)):

    @line(13, f"Conv, then Clip({_low:g}, {_high:g})")
    def _(rng, low=_low, high=_high):
        text = f"h = Conv{PAD}(x, w1) c = Clip(h, low, high) y = Conv{PAD}(c, w2)"
        return cnn(rng, text, 2, extra={"low": np.float32(low), "high": np.float32(high)})


@line(14, "Clip with bounds that are inputs")
def _(rng):
    text = f"""(float[1,4,8,8] x, float high) => (float[1,4,8,8] y) {{
        h = Conv{PAD}(x, w1) c = Clip(h, , high) y = Conv{PAD}(c, w2) }}"""
    case = cnn(rng, text, 2)
    case.feeds = [feed | {"high": np.array(0.2 + i / 8, np.float32)} for i, feed in enumerate(case.feeds)]
    return case
