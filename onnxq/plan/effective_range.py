"""The effective range of a value: the part in which its consumers' results differ.

Values outside it may be clipped at no loss. A HardSigmoid is constant left of its ramp, a LeakyRelu with a
clamp behind it below some value, a Sigmoid almost constant at both ends. Where a gate is zero, the value that
it multiplies does not matter.
"""

import math

import onnx_ir as ir

from onnxq.graph.edit import factor
from onnxq.plan.constraints import Range, clamp_bounds, ramp_factors
from onnxq.plan.operators import Role
from onnxq.plan.plan import Plan, PlannedNode

SIGMOID_ENDS = 6.25
"""Beyond this a Sigmoid is within half a step of 1/256 of its limit."""
SILU_BEGIN = -8.0
"""Below this, x * Sigmoid(x) is always within 0.003 of zero."""


def effective_range(plan: Plan, value: ir.Value) -> Range | None:
    """Return the bounds at which a value may be clipped at no loss; None without known bounds."""
    consumers = {use.node for use in value.uses()}
    if value.is_graph_output() or not consumers:
        return None
    # a Mul by the value's own gate adds no bound; the gate's bound counts
    gated = {node for node in consumers if _gate(plan, node, value) is not None}
    ranges = [
        _consumer_range(plan.nodes.get(node.name or ""), gated=bool(gated)) for node in consumers - gated
    ]
    known = [each for each in ranges if each is not None]
    if len(known) < len(ranges) or not known:
        return None
    low, high = min(low for low, _ in known), max(high for _, high in known)
    return (low, high) if low < 0 < high else None


def _consumer_range(planned: PlannedNode | None, *, gated: bool) -> Range | None:
    """Return bounds beyond which one consumer's result is constant.

    Args:
        planned: the consumer.
        gated: whether the result multiplies the value itself: then only the lower bound holds.
    """
    if planned is None:
        return None
    node = planned.node
    if planned.row.role is Role.RAMP:
        alpha, beta = ramp_factors(node)
        return -beta / alpha, math.inf if gated else (1 - beta) / alpha
    if node.op_type == "Sigmoid":
        return (SILU_BEGIN, math.inf) if gated else (-SIGMOID_ENDS, SIGMOID_ENDS)
    clamp = planned.output.producer()
    if node.op_type == "LeakyRelu" and clamp is not None and clamp is not node and not gated:
        alpha, bounds = factor(node, "alpha", 0.01), clamp_bounds(clamp)
        if alpha > 0 and bounds is not None:
            return bounds[0] / alpha, bounds[1]
    return None


def _gate(plan: Plan, node: ir.Node, value: ir.Value) -> ir.Node | None:
    """Return the HardSigmoid or Sigmoid of `value` if a planned Mul multiplies the value by it."""
    if node.op_type != "Mul" or (node.name or "") not in plan.nodes or len(node.inputs) != 2:
        return None
    for factor_value, other in (node.inputs, node.inputs[::-1]):
        gate = other.producer() if other is not None else None
        if (
            factor_value is value
            and gate is not None
            and gate.op_type in ("HardSigmoid", "Sigmoid")
            and gate.inputs[0] is value
        ):
            return gate if (gate.name or "") in plan.nodes else None
    return None
