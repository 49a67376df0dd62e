"""Rules of quantizers: straight-through gradients, and those of scales (LSQ).

The gradient of stored integers is that of the value which was quantized. S. K. Esser et al., "Learned Step
Size Quantization", ICLR 2020: with y = s * clip(round(x / s)), dy/dx is 1 inside the range and 0 outside, and
dy/ds = (y - x) / s inside and y / s outside. Zero points do not change.
"""

import numpy as np
import onnx_ir as ir

from onnxq.finetuning.rules.rule import Gradients, first, operand
from onnxq.finetuning.tape import NoRuleError, Tape
from onnxq.graph.edit import constant, input_at


def dequantize(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of DequantizeLinear behind a quantizer, or behind a Clip of its integers."""
    producer, scale, g = operand(node).producer(), operand(node, 1), first(gradients)
    if producer is None:
        return []  # stored integers
    if producer.op_type == "DynamicQuantizeLinear":
        return [g]
    quantizer, clipped = producer, producer.op_type == "Clip"
    if clipped:
        before = operand(producer).producer()
        if before is not None:
            quantizer = before
    if quantizer.op_type != "QuantizeLinear":
        raise NoRuleError(f"its integers come from {quantizer.op_type}")
    own = operand(quantizer, 1)
    if own is not scale:  # a Clip that stands for a ramp: another scale reads the integers
        g = tape.op("Mul", g, tape.op("Div", scale, own))
    if clipped:
        return [g]
    x, low, high = operand(quantizer), *_ends(quantizer)
    clip = tape.op("Clip", x, tape.op("Mul", own, low), tape.op("Mul", own, high))
    inside = tape.where(tape.op("Equal", clip, x), g)
    if own is not scale or scale not in tape.wanted:
        return [inside]
    both = tape.op("Sub", tape.dot(g, node.outputs[0]), tape.dot(inside, x))
    return [inside, tape.op("Div", both, scale)]


def _ends(quantizer: ir.Node) -> tuple[float, float]:
    """Return the ends of the range, in steps: half a step beyond the last integers."""
    zero = constant(input_at(quantizer, 2))
    kind = np.iinfo(np.uint8 if zero is None else zero.dtype)
    middle = 0 if zero is None else int(zero.reshape(-1)[0])
    if zero is not None and zero.size != 1:
        raise NoRuleError("it has a zero point per channel")
    return kind.min - middle - 0.5, kind.max - middle + 0.5


def quantize(_tape: Tape, _node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of QuantizeLinear and DynamicQuantizeLinear: `dequantize` has computed the gradient."""
    return [gradients[0]]
