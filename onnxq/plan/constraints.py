"""Conditions on a single node: the reason why it has no integer kernel, or None."""

import math

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import (
    attribute,
    constant,
    factor,
    input_at,
    is_constant,
    is_float,
    known_rank,
    masks,
    sizes,
)
from onnxq.plan.operators import KNOWN_RANGES, OPERATORS, Operator, Role
from onnxq.techniques.arithmetic import LONGEST_SUM

Range = tuple[float, float]
"""Lower and upper bound."""
CROP = "tf_crop_and_resize"


def refusal(node: ir.Node, opset: int) -> str | None:
    """Return the reason why a node has no integer kernel in any surroundings, or None.

    Args:
        node: a node of a normalized model.
        opset: the model's opset.
    """
    row = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if row is None and node.op_type == "LSTM":
        return "it has no static integer kernel; --dynamic-lstm can store its weights as int8"
    if row is None:
        return f"the runtime has no integer kernel for {node.op_type}"
    if opset < row.min_opset:
        return (
            f"its integer kernel needs opset {row.min_opset}, the model has {opset} and cannot be converted"
        )
    if not is_float(node.outputs[0]):
        kind = node.outputs[0].dtype
        return f"it computes {kind.name.lower() if kind else 'an unknown type'}, not float32"
    match row.role:
        case Role.ANCHOR:
            return _anchor_refusal(node, row)
        case Role.CLAMP:
            return None
        case Role.VIEW:
            return _view_refusal(node)
        case Role.RAMP:
            return _ramp_refusal(node)
        case Role.ARITHMETIC:
            return _arithmetic_refusal(node)


def _anchor_refusal(node: ir.Node, row: Operator) -> str | None:
    weight = input_at(node, row.weight)
    if not is_float(node.inputs[0]) or is_constant(node.inputs[0]):
        return "its first operand is a constant or no float32 tensor"
    if not is_constant(weight) or not is_float(weight):
        if node.op_type == "MatMul":
            return "both operands are activations"
        return "its weight is not a float32 constant"
    shape = sizes(weight) or []
    if 0 in shape:
        return "its weight is empty"
    if node.op_type == "MatMul" and len(shape) != 2:
        return f"its weight has {len(shape)} axes; the integer kernel takes 2"
    if shape and math.prod(shape) // shape[channels_axis(node, row)] > LONGEST_SUM:
        return "its sums of products do not fit into int32"
    bias = input_at(node, row.bias)
    if bias is None:
        return None
    if not is_constant(bias) or not is_float(bias) or known_rank(bias) != 1:
        return "its bias is not a constant vector"
    if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return "alpha and beta are not 1"
    return None


def channels_axis(node: ir.Node, row: Operator) -> int:
    """Return the axis of a product's weight that numbers output channels."""
    transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
    return 0 if transposed else row.channel_axis


def _view_refusal(node: ir.Node) -> str | None:
    if is_constant(node.inputs[0]):
        return "its input is a constant"
    if node.op_type == "Resize" and attribute(node, "mode", "nearest") != "nearest":
        return "only nearest-neighbour Resize has an integer kernel"
    if node.op_type == "Resize" and attribute(node, "coordinate_transformation_mode", "") == CROP:
        return "outside of the cropped region, an integer Resize writes another value than zero"
    if node.op_type == "MaxPool" and len(node.outputs) > 1:
        return "MaxPool with indices has no integer kernel"
    return None


def ramp_factors(node: ir.Node) -> tuple[float, float]:
    """Return alpha and beta of a HardSigmoid."""
    return factor(node, "alpha", 0.2), factor(node, "beta", 0.5)


def _ramp_refusal(node: ir.Node) -> str | None:
    alpha, beta = ramp_factors(node)
    if alpha <= 0 or beta <= 0:
        return "its ramp does not start left of zero"
    origin = _origin(node.inputs[0])
    producer = origin.producer() if origin is not None else None
    if producer is not None and (clamp_bounds(producer) is not None or producer.op_type in KNOWN_RANGES):
        return "its input has a bounded range, so input and output cannot share stored integers"
    return None


def average_refusal(node: ir.Node) -> str | None:
    """Return the reason why no integer AveragePool computes the same, or None."""
    if "dilations" in node.attributes:
        return "the integer AveragePool takes no dilations"
    if attribute(node, "ceil_mode", 0) and attribute(node, "count_include_pad", 0):
        return "with ceil_mode and count_include_pad, the integer AveragePool divides by other counts"
    return None


def _origin(value: ir.Value | None) -> ir.Value | None:
    """Return the value that a value is a view of."""
    while value is not None:
        producer = value.producer()
        row = OPERATORS.get(producer.op_type) if producer is not None else None
        if producer is None or row is None or row.role is not Role.VIEW:
            break
        value = producer.inputs[0]
    return value


def _arithmetic_refusal(node: ir.Node) -> str | None:
    operands = [value for value in node.inputs if value is not None]
    if not all(is_float(value) for value in operands):
        return "an operand is not float32"
    if all(is_constant(value) for value in operands):
        return "all operands are constants"
    if any(_is_mask(value) for value in operands):
        return "an operand is a mask: it has infinite values, or values above 1e30"
    if any(0 in (sizes(value) or []) for value in operands):
        return "an operand is empty"
    return average_refusal(node) if node.op_type == "AveragePool" else None


def _is_mask(value: ir.Value) -> bool:
    array = constant(value)
    return array is not None and masks(array)


def clamp_bounds(node: ir.Node) -> Range | None:
    """Return the constant bounds of a Relu or Clip if they contain 0, otherwise None."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    if node.op_type != "Clip" or node.domain not in ("", "ai.onnx"):
        return None
    bounds = [float(attribute(node, "min", -np.inf)), float(attribute(node, "max", np.inf))]  # type: ignore[arg-type]
    for index in (1, 2):
        value = input_at(node, index)
        array = constant(value)
        if value is not None and (array is None or array.size != 1):
            return None
        if array is not None:
            bounds[index - 1] = float(array.reshape(()))
    least, most = bounds
    return (least, most) if least <= 0 <= most and least < most else None
