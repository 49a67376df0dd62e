"""The part of a value's range that its consumers can tell apart: no integers are spent on the rest.

A HardSigmoid is flat left of its ramp, a LeakyRelu with a clamp behind it below some value, a Sigmoid
at both ends; and what a gate multiplies by zero may be anything.
"""

import math

import onnx_ir as ir

from onnxq.graph.edit import factor
from onnxq.plan.constraints import Range, clamp_bounds, ramp_factors
from onnxq.plan.operators import Role
from onnxq.plan.plan import Plan, PlannedNode

SIGMOID_ENDS = 6.25
"""Where a Sigmoid is within half a step of 1/256 of its ends."""
SILU_BEGIN = -8.0
"""Where x * Sigmoid(x) is within 0.003 of zero, for good."""


def effective_range(plan: Plan, value: ir.Value) -> Range | None:
    """Bounds beyond which the value may be clipped at no loss; None where there are none, or they are unknown."""
    consumers = {use.node for use in value.uses()}
    if value.is_graph_output() or not consumers:
        return None
    gates = {node for node in consumers if _gating(plan, node, value) is not None}
    ranges = [_told_apart(plan.nodes.get(node.name or ""), gated=bool(gates)) for node in consumers - gates]
    known = [found for found in ranges if found is not None]
    if len(known) < len(ranges) or not known:
        return None
    low, high = min(low for low, _ in known), max(high for _, high in known)
    return (low, high) if low < 0 < high else None


def _told_apart(planned: PlannedNode | None, *, gated: bool) -> Range | None:
    """Bounds beyond which one consumer gives the same result; gated by that result, only the lower one counts."""
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


def _gating(plan: Plan, node: ir.Node, value: ir.Value) -> ir.Node | None:
    """The ramp or Sigmoid of `value` by which a planned Mul multiplies it, if it does."""
    if node.op_type != "Mul" or (node.name or "") not in plan.nodes or len(node.inputs) != 2:
        return None
    for x, other in (node.inputs, node.inputs[::-1]):
        gate = other.producer() if other is not None else None
        if (
            x is value
            and gate is not None
            and gate.op_type in ("HardSigmoid", "Sigmoid")
            and gate.inputs[0] is value
        ):
            return gate if (gate.name or "") in plan.nodes else None
    return None
