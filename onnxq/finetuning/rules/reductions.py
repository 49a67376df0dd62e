"""Rules of reductions, and of Softmax."""

from collections.abc import Callable

import onnx_ir as ir

from onnxq.finetuning.rules.rule import Gradients, Rule, axis_of, first, operand
from onnxq.finetuning.tape import AXES_OPSET, Tape, integers
from onnxq.graph.edit import attribute

Reduced = Callable[[Tape, ir.Value, ir.Value, ir.Value, int, list[int]], ir.Value]
"""Signature: tape, x, result, gradient, values per result, axes -> gradient of x.

Result and gradient have the reduced axes, of size 1.

The gradient may still lack the repetition along the reduced axes.
"""


def _axes(tape: Tape, node: ir.Node, rank: int) -> list[int]:
    axes = tape.numbers(node, 1, "axes")
    if not axes:
        return [] if attribute(node, "noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis_of(axis, rank) for axis in axes)


def reduction(derivative: Reduced) -> Rule:
    """Return the rule of a reduction."""

    def rule(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
        x, y, g = operand(node), node.outputs[0], first(gradients)
        before = tape.shape(x)
        axes = _axes(tape, node, len(before))
        kept = [1 if axis in axes else size for axis, size in enumerate(before)]
        if not attribute(node, "keepdims", 1):
            y, g = tape.reshape(y, kept), tape.reshape(g, kept)
        count = 1
        for axis in axes:
            count *= before[axis]
        return [tape.op("Expand", derivative(tape, x, y, g, count, axes), integers(before))]

    return rule


def _extreme(tape: Tape, x: ir.Value, y: ir.Value, g: ir.Value, _: int, axes: list[int]) -> ir.Value:
    """Equal values share the gradient."""
    chosen = tape.op("Cast", tape.op("Equal", x, y), to=int(ir.DataType.FLOAT))
    return tape.op("Mul", tape.op("Div", g, tape.sum(chosen, axes)), chosen)


REDUCTIONS: dict[str, Rule] = {
    op_type: reduction(derivative)
    for op_type, derivative in {
        "ReduceL1": lambda t, x, _y, g, _c, _a: t.op("Mul", g, t.op("Sign", x)),
        "ReduceL2": lambda t, x, y, g, _c, _a: t.op("Mul", t.op("Div", g, y), x),
        "ReduceLogSum": lambda t, _x, y, g, _c, _a: t.op("Div", g, t.op("Exp", y)),
        "ReduceLogSumExp": lambda t, x, y, g, _c, _a: t.op("Mul", g, t.op("Exp", t.op("Sub", x, y))),
        "ReduceMax": _extreme,
        "ReduceMean": lambda t, _x, _y, g, c, _a: t.op("Mul", g, 1 / max(c, 1)),
        "ReduceMin": _extreme,
        "ReduceProd": lambda t, x, y, g, _c, _a: t.op("Div", t.op("Mul", g, y), x),
        "ReduceSum": lambda _t, _x, _y, g, _c, _a: g,
        "ReduceSumSquare": lambda t, x, _y, g, _c, _a: t.op("Mul", t.op("Mul", g, 2.0), x),
    }.items()
}
"""Rules of reductions."""


def softmax_axes(tape: Tape, node: ir.Node) -> list[int]:
    """Return the axes along which a Softmax sums up to 1: before opset 13, all from `axis` on."""
    rank, old = len(tape.shape(node.outputs[0])), tape.opset < AXES_OPSET
    axis = axis_of(int(attribute(node, "axis", 1 if old else -1)), rank)  # type: ignore[arg-type]
    return list(range(axis, rank)) if old else [axis]


def softmax(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Softmax."""
    y, g = node.outputs[0], first(gradients)
    total = tape.sum(tape.op("Mul", g, y), softmax_axes(tape, node))
    return [tape.op("Mul", y, tape.op("Sub", g, total))]


def log_softmax(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of LogSoftmax."""
    y, g = node.outputs[0], first(gradients)
    return [tape.op("Sub", g, tape.op("Mul", tape.op("Exp", y), tape.sum(g, softmax_axes(tape, node))))]
