"""Biases of products: only a MatMul has one in a node behind it."""

import numpy as np
import pytest

from onnxq.normalize.passes import normalize
from onnxq.plan.plan import make_plan
from onnxq.plan.products import among_floats, following_bias, has_bias
from tests.conftest import normal, parse, to_ir

ONE_INPUT = {
    "MaxPool": "p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(r)",
    "AveragePool": "p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(r)",
    "GlobalAveragePool": "p = GlobalAveragePool(r)",
    "Transpose": "p = Transpose(r)",
    "LeakyRelu": "l = LeakyRelu(h) p = Abs(l)",
    "Sigmoid": "p = Sigmoid(r)",
    "Concat": "p = Concat<axis=1>(r)",
}


@pytest.mark.parametrize("op_type", list(ONE_INPUT))
def test_a_node_of_one_input_in_front_of_an_add_has_no_bias(rng, op_type):
    text = f"g (float[1,4,4,4] x) => (float y) {{ h = Conv(x, w) r = Relu(h) {ONE_INPUT[op_type]} q = Conv(x, v) a = Add(p, q) y = Conv(a, w) }}"
    model = parse(
        text.replace("p = Transpose(r)", "p = Transpose<perm=[0,1,3,2]>(r)"),
        {"w": normal(rng, 4, 4, 1, 1), "v": normal(rng, 4, 4, 1, 1)},
        opset=18,
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    plan = make_plan(normalize(to_ir(model)))
    assert len(plan.anchors) == 3
    assert among_floats(plan) == []
    others = [planned for planned in plan.nodes.values() if planned.node.op_type != "Conv"]
    assert [has_bias(planned) for planned in others] == [False] * len(others)


def test_a_matmul_has_the_constant_behind_it(rng):
    text = "g (float[1,2,4] x) => (float[1,2,4] y) { h = MatMul(x, w) y = Add(b, h) }"
    plan = make_plan(normalize(to_ir(parse(text, {"w": normal(rng, 4, 4), "b": np.ones(4, np.float32)}))))
    (planned,) = plan.nodes.values()
    follower, index = following_bias(planned)
    assert (follower.op_type, index) == ("Add", 0)
