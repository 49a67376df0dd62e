"""Time of a planned node on one CPU, on integers and in float, with the runtime's fusions."""

import math

import onnx_ir as ir

from onnxq.cost.model import Costs, Work
from onnxq.graph.edit import factor
from onnxq.graph.macs import ShapeByName
from onnxq.plan.operators import Role
from onnxq.plan.plan import PlannedNode

ACTIVATIONS = ("HardSigmoid", "LeakyRelu", "Sigmoid")
"""Activations planned as nodes that a float convolution fuses."""


def times_of(planned: PlannedNode, shapes: ShapeByName, costs: Costs) -> tuple[float, float]:
    """Return the nanoseconds on integers and in float; zeros if a shape is unknown."""
    if planned.name in costs.nodes:
        return costs.nodes[planned.name]
    found = costs.work_of(planned.node, shapes)
    if found is None:
        return 0.0, 0.0
    kind, work = found
    as_float = _float_ns(planned.node, kind, work, costs)
    if kind in ("Add", "Mul") and work.places:
        # in the float convolutions' blocked layout, both operands must have one shape
        as_float += 2 * costs.kernel_ns("float", "reorder", Work(0, work.outputs, 0))
    if planned.row.role is Role.RAMP:
        return costs.kernel_ns("integer", "Clip", work), as_float
    clamp = planned.output.producer()
    if clamp is not None and clamp is not planned.node:
        as_float += _clamp_ns(clamp, work, costs, by_convolution=planned.node.op_type == "Conv")
    return costs.kernel_ns("integer", kind, work), as_float


def _clamp_ns(clamp: ir.Node, work: Work, costs: Costs, *, by_convolution: bool) -> float:
    """Return the time of a float clamp: a convolution fuses a Relu for free, a Clip in a pass of its own."""
    read = Work(0, work.outputs, work.outputs)
    if not by_convolution:
        return costs.kernel_ns("float", "Relu", read)
    return costs.kernel_ns("float", "fused Clip", read) if clamp.op_type == "Clip" else 0.0


def _float_ns(node: ir.Node, kind: str, work: Work, costs: Costs) -> float:
    """Return the float nanoseconds; activations behind a convolution count as fused.

    The time of a fused HardSwish counts at its HardSigmoid.
    """
    whole = costs.kernel_ns("float", "fused HardSwish", work)
    if node.op_type in ACTIVATIONS and _follows_convolution(node.inputs[0]):
        others = [consumer for consumer in _consumers(node.inputs[0]) if consumer is not node]
        if all(_closes_hard_swish(consumer, node) for consumer in others):
            return (whole if others else 0.0) or costs.kernel_ns("float", f"fused {kind}", work)
    if node.op_type == "Mul" and whole:
        gates = [value.producer() for value in node.inputs if value is not None]
        if any(
            gate is not None and _closes_hard_swish(node, gate) and _follows_convolution(gate.inputs[0])
            for gate in gates
        ):
            return 0.0
    return costs.kernel_ns("float", kind, work)


def _closes_hard_swish(node: ir.Node, ramp: ir.Node) -> bool:
    """Whether a product is x * HardSigmoid(x) with HardSwish's slope."""
    if (
        node.op_type != "Mul"
        or ramp.op_type != "HardSigmoid"
        or set(node.inputs) != {ramp.inputs[0], ramp.outputs[0]}
    ):
        return False
    return math.isclose(factor(ramp, "alpha", 0.2), 1 / 6, rel_tol=1e-4) and factor(ramp, "beta", 0.5) == 0.5


def _follows_convolution(value: ir.Value | None) -> bool:
    before = value.producer() if value is not None else None
    return before is not None and before.op_type == "Conv"


def _consumers(value: ir.Value | None) -> set[ir.Node]:
    return {use.node for use in value.uses()} if value is not None else set()
