"""What depends on an input with a default has no calibrated range: it stays float, and says why."""

import numpy as np
import pytest

from onnxq.normalize.passes import normalize
from onnxq.plan.plan import make_plan
from onnxq.plan.reasons import Cause
from tests.conftest import normal, parse, to_ir

CHAIN = "h = MatMul(x, w) a = Add(h, b) r = Relu(a) y = MatMul(r, v) }"


def plan_of(text, rng, ir_version=8):
    constants = {"w": normal(rng, 4, 4), "v": normal(rng, 4, 4), "b": normal(rng, 4)}
    return make_plan(normalize(to_ir(parse(text, constants, ir_version=ir_version))))


@pytest.mark.parametrize(
    ("more", "planned"), [("", 2), (", float[4] b", 1), (", float[4,4] v", 1), (", float[4,4] w", 0)]
)
def test_what_lies_before_such_an_input_is_quantized(rng, more, planned):
    plan = plan_of(f"g (float[2,4] x{more}) => (float[2,4] y) {{ {CHAIN}", rng)
    assert len(plan.anchors) == planned
    if more:
        reasons = [why for node, why in plan.floats.values() if node.op_type in ("Gemm", "MatMul")]
        assert all(why.cause is Cause.CALIBRATION for why in reasons)
        assert all(f"'{more[-1]}', an input with a default" in why.text for why in reasons)


def test_before_version_4_of_the_format_none_can_be_replaced(rng):
    text = f"g (float[2,4] x, float[4,4] w, float[4,4] v, float[4] b) => (float[2,4] y) {{ {CHAIN}"
    assert len(plan_of(text, rng, ir_version=3).anchors) == 2


def test_a_body_that_reads_one_stays_float_with_what_follows(rng):
    text = """g (float[2,4] x, bool c, float k) => (float[2,4] y) { h = MatMul(x, w)
        z = If (c) <then_branch = t () => (float[2,4] p) { q = Mul(h, k) p = MatMul(q, v) },
                    else_branch = e () => (float[2,4] u) { u = Neg(h) }>
        y = MatMul(z, v) }"""
    constants = {"w": normal(rng, 4, 4), "v": normal(rng, 4, 4), "k": np.float32(1)}
    plan = make_plan(normalize(to_ir(parse(text, constants))))
    assert [planned.node.outputs[0].name for planned in plan.anchors.values()] == ["h"]
