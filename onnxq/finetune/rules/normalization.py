"""Rules of normalizations."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxq.finetune.rules.rule import Gradients, axis_of, first, operand
from onnxq.finetune.tape import NoRuleError, Tape
from onnxq.graph.edit import attribute, factor, input_at


def _standardized(
    tape: Tape, x: ir.Value, axes: Sequence[int], count: int, epsilon: float, *, centred: bool = True
) -> tuple[ir.Value, ir.Value]:
    """Return x with mean 0 and variance 1 along axes, and the inverse of its deviation."""
    if centred:
        x = tape.op("Sub", x, tape.mean(x, axes, count))
    variance = tape.mean(tape.op("Mul", x, x), axes, count)
    inverse = tape.op("Reciprocal", tape.op("Sqrt", tape.op("Add", variance, epsilon)))
    return tape.op("Mul", x, inverse), inverse


def _through(
    tape: Tape, g: ir.Value, standard: ir.Value, inverse: ir.Value, axes: Sequence[int], count: int,
    *, centred: bool = True,
) -> ir.Value:  # fmt: skip
    """Return the gradient of x from that of the standardized x."""
    along = tape.op("Mul", standard, tape.mean(tape.op("Mul", g, standard), axes, count))
    rest = tape.op("Sub", g, along)
    if centred:
        rest = tape.op("Sub", rest, tape.mean(g, axes, count))
    return tape.op("Mul", rest, inverse)


def layer_normalization(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of LayerNormalization, SimplifiedLayerNormalization and RMSNormalization."""
    if any(each is not None for each in gradients[1:]):
        raise NoRuleError("its mean or deviation is used")
    x, scale, g = operand(node), operand(node, 1), first(gradients)
    shape, centred = tape.shape(x), node.op_type == "LayerNormalization"
    axis = axis_of(int(attribute(node, "axis", -1)), len(shape))  # type: ignore[arg-type]
    axes, count = list(range(axis, len(shape))), int(np.prod(shape[axis:]))
    epsilon = factor(node, "epsilon", 1e-5)
    standard, inverse = _standardized(tape, x, axes, count, epsilon, centred=centred)
    result: list[ir.Value | None] = [None, None, None]
    if tape.wants(node, 0):
        scaled = tape.op("Mul", g, scale)
        result[0] = _through(tape, scaled, standard, inverse, axes, count, centred=centred)
    if tape.wants(node, 1):
        result[1] = tape.unbroadcast(tape.op("Mul", g, standard), shape, tape.shape(scale))
    if tape.wants(node, 2):
        result[2] = tape.unbroadcast(g, shape, tape.shape(input_at(node, 2)))
    return result


def instance_normalization(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of InstanceNormalization."""
    x, scale, g = operand(node), operand(node, 1), first(gradients)
    shape = tape.shape(x)
    axes, count = list(range(2, len(shape))), int(np.prod(shape[2:]))
    standard, inverse = _standardized(tape, x, axes, count, factor(node, "epsilon", 1e-5))
    along = [1, -1, *([1] * len(axes))]
    scaled = tape.op("Mul", g, tape.reshape(scale, along))
    return [
        _through(tape, scaled, standard, inverse, axes, count),
        tape.sum(tape.op("Mul", g, standard), [0, *axes], keep=False) if tape.wants(node, 1) else None,
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
    standard, inverse = _standardized(tape, x, axes, count, factor(node, "epsilon", 1e-5))
    summed = [axis for axis, size in enumerate(wide) if size == 1]

    def parameter(value: ir.Value, index: int) -> ir.Value | None:
        if not tape.wants(node, index):
            return None
        return tape.reshape(tape.sum(value, summed), tape.shape(operand(node, index)))

    scaled = tape.op("Mul", g, tape.reshape(scale, wide))
    return [
        tape.reshape(_through(tape, scaled, standard, inverse, axes, count), shape),
        parameter(tape.op("Mul", g, standard), 1),
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
