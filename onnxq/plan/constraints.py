"""Why a node has no integer kernel, whatever stands around it."""

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import attribute, constant, factor, input_at, is_constant, is_float, known_rank, sizes
from onnxq.plan.operators import KNOWN_RANGES, OPERATORS, Operator, Role

Range = tuple[float, float]
CROP = "tf_crop_and_resize"
LARGEST = 1e30
"""A constant beyond this stands for infinity: no scale holds it and other values."""


def refusal(node: ir.Node, opset: int) -> str | None:
    """Why a node has no integer kernel whatever stands around it, or None."""
    row = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if row is None and node.op_type == "LSTM":
        return "no static integer kernel; --dynamic-lstm stores its weights as int8 all the same"
    if row is None:
        return f"the runtime has no integer kernel for {node.op_type}"
    if opset < row.min_opset:
        return f"takes integers from opset {row.min_opset} on, the model has {opset} and cannot be lifted"
    if not is_float(node.outputs[0]):
        kind = node.outputs[0].dtype
        return f"computes {kind.name.lower() if kind else 'an unknown type'}, not float32"
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
    bias = input_at(node, row.bias)
    if bias is None:
        return None
    if not is_constant(bias) or not is_float(bias) or known_rank(bias) != 1:
        return "its bias is not a constant vector"
    if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return "alpha and beta are not 1"
    return None


def _view_refusal(node: ir.Node) -> str | None:
    if is_constant(node.inputs[0]):
        return "works on a constant"
    if node.op_type == "Resize" and attribute(node, "mode", "nearest") != "nearest":
        return "only nearest-neighbour Resize works on integers"
    if node.op_type == "Resize" and attribute(node, "coordinate_transformation_mode", "") == CROP:
        return "outside of its region, an integer Resize writes another value than zero"
    if node.op_type == "MaxPool" and len(node.outputs) > 1:
        return "MaxPool with indices has no integer kernel"
    return None


def ramp_factors(node: ir.Node) -> tuple[float, float]:
    """Alpha and beta of a HardSigmoid."""
    return factor(node, "alpha", 0.2), factor(node, "beta", 0.5)


def _ramp_refusal(node: ir.Node) -> str | None:
    alpha, beta = ramp_factors(node)
    if alpha <= 0 or beta <= 0:
        return "does not rise from zero left of the origin"
    origin = node.inputs[0]
    while origin is not None:
        producer = origin.producer()
        if (
            producer is None
            or producer.op_type not in OPERATORS
            or OPERATORS[producer.op_type].role is not Role.VIEW
        ):
            break
        origin = producer.inputs[0]
    producer = origin.producer() if origin is not None else None
    if producer is not None and (clamp_bounds(producer) is not None or producer.op_type in KNOWN_RANGES):
        return "its operand's range is bounded, so that its integers cannot stand for both"
    return None


def average_refusal(node: ir.Node) -> str | None:
    """Why an AveragePool has no integer kernel that computes the same, or None."""
    if "dilations" in node.attributes:
        return "the integer AveragePool takes no dilations"
    if attribute(node, "ceil_mode", 0) and attribute(node, "count_include_pad", 0):
        return "with ceil_mode and count_include_pad, the integer AveragePool divides by other counts"
    return None


def _arithmetic_refusal(node: ir.Node) -> str | None:
    operands = [value for value in node.inputs if value is not None]
    if not all(is_float(value) for value in operands):
        return "an operand is not float32"
    if all(is_constant(value) for value in operands):
        return "works on constants alone"
    if any(_is_mask(value) for value in operands):
        return "an operand masks values: it is infinite, or as good as"
    if any(0 in (sizes(value) or []) for value in operands):
        return "an operand is empty"
    return average_refusal(node) if node.op_type == "AveragePool" else None


def _is_mask(value: ir.Value) -> bool:
    array = constant(value)
    return array is not None and array.size > 0 and not bool(np.abs(array).max() < LARGEST)


def clamp_bounds(node: ir.Node) -> Range | None:
    """Constant bounds of a Relu or Clip that hold 0, or None."""
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
