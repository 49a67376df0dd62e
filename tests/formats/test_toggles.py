"""The toggle model gives the values of every partly quantized form."""

import numpy as np
import onnx
import pytest

from onnxq.formats.qdq import write_qdq
from onnxq.formats.toggles import toggle_model
from onnxq.plan.plan import make_plan
from onnxq.plan.reasons import MEASURING
from onnxq.quantization.parameters import Parameters
from onnxq.runtime.sessions import Tuning, open_session
from tests.conftest import CNN, Quantized, normal, parse

RESIDUAL = """g (float[1,3,12,12] x) => (float[1,5] y, float[1,8,12,12] r) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a)
    c = Conv<pads=[1,1,1,1]>(r, w2) s = Add(c, r)
    h = HardSigmoid<alpha=0.16666667,beta=0.5>(s) m = Mul(s, h)
    p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(m)
    d = Conv(p, w3, b3) e = Relu(d)
    f = GlobalAveragePool(e) k = Flatten(f) t = Tanh(k) y = Gemm(t, w4, b4) }"""


def residual(rng: np.random.Generator) -> onnx.ModelProto:
    constants = {
        "w1": normal(rng, 8, 3, 3, 3), "b1": normal(rng, 8), "w2": normal(rng, 8, 8, 3, 3) / 8,
        "w3": normal(rng, 6, 8, 1, 1), "b3": normal(rng, 6), "w4": normal(rng, 6, 5), "b4": normal(rng, 5),
    }  # fmt: skip
    return parse(RESIDUAL, constants)


def biased_product(rng: np.random.Generator) -> onnx.ModelProto:
    text = """g (float[1,4,16] x) => (float[1,4,8] y) {
        a = MatMul(x, w1) b = Add(a, c1) d = Tanh(b) e = MatMul(d, w2) y = Add(e, c2) }"""
    constants = {
        "w1": normal(rng, 16, 16), "c1": normal(rng, 16), "w2": normal(rng, 16, 8), "c2": normal(rng, 8),
    }  # fmt: skip
    return parse(text, constants)


def digits(_: np.random.Generator) -> onnx.ModelProto:
    return onnx.load(CNN)


@pytest.mark.parametrize("build", [residual, biased_product, digits])
def test_every_set_of_float_nodes_has_the_values_of_its_file(rng, build):
    model = build(rng)
    (given,) = model.graph.input
    shape = [size.dim_value or 1 for size in given.type.tensor_type.shape.dim]
    feeds = [{given.name: normal(rng, *shape)} for _ in range(4)]
    done = Quantized(model, feeds)
    toggles = toggle_model(done.float, done.plan, done.parameters)
    session = open_session(toggles.model, threads=1, tuning=Tuning(integer_kernels=False))
    anchors = list(done.plan.anchors)
    sets = [(), anchors, *([each] for each in anchors), *([o for o in anchors if o != e] for e in anchors)]
    float_values = open_session(done.float, threads=1).run(None, feeds[0])
    for floats in sets:
        plan = make_plan(done.float, kept=dict.fromkeys(floats, MEASURING))
        kept = done.parameters
        constants = {place: one for place, one in kept.constants.items() if place[0] in plan.nodes}
        replaced = {place: one for place, one in kept.replaced.items() if not floats}
        activations = {name: kept.activations[t.source] for name, t in done.plan.tensors.items()}
        written = write_qdq(done.float, plan, Parameters(activations, constants, replaced))
        expected = open_session(written, optimize=False, threads=1).run(None, feeds[0])
        found = session.run(None, feeds[0] | toggles.flags(plan))
        for want, have, exact in zip(expected, found, float_values, strict=True):
            noise = float(np.square(want - exact).sum())
            # a value at the edge of two steps may fall on the other side
            assert float(np.square(have - want).sum()) <= 0.02 * noise + 1e-9 * float(np.square(exact).sum())
