"""Rules of normalizations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.finetuning.rules.rule import Gradients, axis_of, first, operand
from onnxq.finetuning.tape import NoRuleError, Tape
from onnxq.graph.edit import attribute, factor, input_at


@dataclass(frozen=True)
class Standard:
    """Values with mean 0 and variance 1 along axes.

    value    the values
    inverse  inverse of the deviation that they had
    axes     the axes
    count    number of values along them
    centred  whether their mean was subtracted
    """

    value: ir.Value
    inverse: ir.Value
    axes: Sequence[int]
    count: int
    centred: bool

    @staticmethod
    def of(
        tape: Tape, x: ir.Value, axes: Sequence[int], count: int, epsilon: float, *, centred: bool = True
    ) -> "Standard":
        """Standardize x."""
        if centred:
            x = tape.op("Sub", x, tape.mean(x, axes, count))
        variance = tape.mean(tape.op("Mul", x, x), axes, count)
        inverse = tape.op("Reciprocal", tape.op("Sqrt", tape.op("Add", variance, epsilon)))
        return Standard(tape.op("Mul", x, inverse), inverse, axes, count, centred)

    def through(self, tape: Tape, g: ir.Value) -> ir.Value:
        """Return the gradient of x from that of the values."""
        share = tape.mean(tape.op("Mul", g, self.value), self.axes, self.count)
        rest = tape.op("Sub", g, tape.op("Mul", self.value, share))
        if self.centred:
            rest = tape.op("Sub", rest, tape.mean(g, self.axes, self.count))
        return tape.op("Mul", rest, self.inverse)


def layer_normalization(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of LayerNormalization, SimplifiedLayerNormalization and RMSNormalization."""
    if any(each is not None for each in gradients[1:]):
        raise NoRuleError("its mean or deviation is used")
    x, scale, g = operand(node), operand(node, 1), first(gradients)
    shape, centred = tape.shape(x), node.op_type == "LayerNormalization"
    axis = axis_of(int(attribute(node, "axis", -1)), len(shape))  # type: ignore[arg-type]
    axes, count = list(range(axis, len(shape))), int(np.prod(shape[axis:]))
    epsilon = factor(node, "epsilon", 1e-5)
    standard = Standard.of(tape, x, axes, count, epsilon, centred=centred)
    result: list[ir.Value | None] = [None, None, None]
    if tape.wants(node, 0):
        scaled = tape.op("Mul", g, scale)
        result[0] = standard.through(tape, scaled)
    if tape.wants(node, 1):
        result[1] = tape.unbroadcast(tape.op("Mul", g, standard.value), shape, tape.shape(scale))
    if tape.wants(node, 2):
        result[2] = tape.unbroadcast(g, shape, tape.shape(input_at(node, 2)))
    return result


def instance_normalization(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of InstanceNormalization."""
    x, scale, g = operand(node), operand(node, 1), first(gradients)
    shape = tape.shape(x)
    axes, count = list(range(2, len(shape))), int(np.prod(shape[2:]))
    standard = Standard.of(tape, x, axes, count, factor(node, "epsilon", 1e-5))
    along = [1, -1, *([1] * len(axes))]
    scaled = tape.op("Mul", g, tape.reshape(scale, along))
    return [
        standard.through(tape, scaled),
        tape.sum(tape.op("Mul", g, standard.value), [0, *axes], keep=False) if tape.wants(node, 1) else None,
        tape.sum(g, [0, *axes], keep=False) if tape.wants(node, 2) else None,
    ]


def group_normalization(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of GroupNormalization with a scale per channel (opset 21) or per group (opset 18)."""
    x, scale, g = operand(node), operand(node, 1), first(gradients)
    shape, groups = tape.shape(x), int(attribute(node, "num_groups", 1))  # type: ignore[arg-type]
    batch, channels = shape[:2]
    apart = [batch, groups, channels // groups, int(np.prod(shape[2:]))]
    wide = [1, groups, channels // groups, 1] if tape.shape(scale) == (channels,) else [1, groups, 1, 1]
    axes, count = [2, 3], apart[2] * apart[3]
    x, g = tape.reshape(x, apart), tape.reshape(g, apart)
    standard = Standard.of(tape, x, axes, count, factor(node, "epsilon", 1e-5))
    summed = [axis for axis, size in enumerate(wide) if size == 1]

    def parameter(value: ir.Value, index: int) -> ir.Value | None:
        if not tape.wants(node, index):
            return None
        return tape.reshape(tape.sum(value, summed), tape.shape(operand(node, index)))

    scaled = tape.op("Mul", g, tape.reshape(scale, wide))
    return [
        tape.reshape(standard.through(tape, scaled), shape),
        parameter(tape.op("Mul", g, standard.value), 1),
        parameter(g, 2),
    ]


def batch_normalization(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of BatchNormalization in inference: an affine function of each channel."""
    if attribute(node, "training_mode", 0):
        raise NoRuleError("it is in training mode")
    x, scale, mean, variance, g = (
        operand(node), operand(node, 1), operand(node, 3), operand(node, 4), first(gradients)
    )  # fmt: skip
    rank = len(tape.shape(x))
    along, axes = [1, -1, *([1] * (rank - 2))], [axis for axis in range(rank) if axis != 1]
    deviation = tape.op("Sqrt", tape.op("Add", variance, factor(node, "epsilon", 1e-5)))
    standard = (
        tape.op("Div", tape.op("Sub", x, tape.reshape(mean, along)), tape.reshape(deviation, along))
        if tape.wants(node, 1)
        else None
    )
    return [
        tape.op("Mul", g, tape.reshape(tape.op("Div", scale, deviation), along)),
        None if standard is None else tape.sum(tape.op("Mul", g, standard), axes, keep=False),
        tape.sum(g, axes, keep=False) if tape.wants(node, 2) else None,
    ]


def lp_normalization(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of LpNormalization with p = 2."""
    if attribute(node, "p", 2) != 2:
        raise NoRuleError("p is not 2")
    x, y, g = operand(node), node.outputs[0], first(gradients)
    axes = [axis_of(int(attribute(node, "axis", -1)), len(tape.shape(x)))]  # type: ignore[arg-type]
    norm = tape.op("Sqrt", tape.sum(tape.op("Mul", x, x), axes))
    along = tape.op("Mul", y, tape.sum(tape.op("Mul", g, y), axes))
    return [tape.op("Div", tape.op("Sub", g, along), norm)]
