"""The signature of a rule: the gradient of one operator as ONNX nodes."""

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxq.finetuning.tape import Tape

Gradients = Sequence[ir.Value | None]
"""Gradients of a node's inputs or outputs in their order; None for none. Those of inputs may end early."""
Rule = Callable[[Tape, ir.Node, Gradients], Gradients]
"""Signature: tape, node, gradients of its outputs (at least one) -> gradients of its inputs.

A rule computes the gradients that `Tape.wants`, and may compute others. It raises `NoRuleError` for a form of
the operator that it does not know.
"""


def first(gradients: Gradients) -> ir.Value:
    """Return the gradient of the only output that has one."""
    gradient = gradients[0]
    assert gradient is not None
    return gradient


def operand(node: ir.Node, index: int = 0) -> ir.Value:
    """Return an input that the operator must have."""
    value = node.inputs[index]
    assert value is not None
    return value


def axis_of(number: int, rank: int) -> int:
    """Return an axis counted from the front."""
    return number + rank if number < 0 else number
