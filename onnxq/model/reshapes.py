"""Reshapes whose shape is computed from what they reshape, as exporters write them: a constant, 0 for each size that stays.

Shape, Slice, Gather and Concat go, and what the Reshape does can be read from the graph. Nothing is taken from shapes that
the file states: a size stays where it is traced back to the same axis of the same value.
"""

import numpy as np
import onnx_ir as ir

from onnxq.model.edit import Names, add_initializer, attribute, constant, is_constant, known_rank, nodes_of

Size = int | tuple[ir.Value, int]
"""A number, or an axis of a value."""

BY_ELEMENT = frozenset({"Cast", "Clip", "Erf", "Gelu", "LayerNormalization", "Relu", "Sigmoid", "Softmax", "Tanh"})
WITH_CONSTANT = frozenset({"Add", "Div", "Mul", "Sub"})
BY_ROW = frozenset({"MatMul", "MatMulIntegerToFloat"})
QUANTIZERS = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"})
FORMS = frozenset({"Cast", "Identity", "Squeeze", "Unsqueeze"})
"""What leaves the numbers of a shape as they are."""


def fix_reshapes(model: ir.Model) -> int:
    """Give Reshapes constant shapes where that is what they have, in place; returns how many there were."""
    names, count = Names(model), 0
    for node in nodes_of(model):
        if node.op_type != "Reshape" or node.domain not in ("", "ai.onnx") or constant(node.inputs[1]) is not None:
            continue
        shape = _fixed(node)
        if shape is not None:
            fresh = names.fresh(f"{node.name}_shape")
            node.replace_input_with(1, add_initializer(model.graph, fresh, np.array(shape, np.int64)))
            count += 1
    return count


def _fixed(reshape: ir.Node) -> list[int] | None:
    x = reshape.inputs[0]
    found = _numbers(reshape.inputs[1])
    if x is None or found is None or attribute(reshape, "allowzero", 0):
        return None
    shape = []
    for axis, size in enumerate(found):
        if isinstance(size, tuple):
            if size[1] != axis or origin(size[0], axis) != origin(x, axis):
                return None
            size = 0
        shape.append(size)
    return shape


def _numbers(value: ir.Value | None) -> list[Size] | None:
    """What a computed shape holds, where every number is known or the size of an axis."""
    array = constant(value)
    if array is not None:
        return array.reshape(-1).tolist() if array.dtype.kind == "i" and array.ndim <= 1 else None
    node = value.producer() if value is not None else None
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Shape":
        rank = known_rank(node.inputs[0])
        plain = not {"start", "end"} & node.attributes.keys()
        return [(node.inputs[0], axis) for axis in range(rank)] if rank is not None and plain and node.inputs[0] is not None else None
    parts = [_numbers(operand) for operand in (node.inputs if node.op_type == "Concat" else node.inputs[:1])]
    if any(part is None for part in parts):
        return None
    numbers = [size for part in parts if part is not None for size in part]
    if node.op_type in (*FORMS, "Concat"):
        return numbers
    return _picked(node, numbers) if node.op_type in ("Gather", "Slice") else None


def _picked(node: ir.Node, numbers: list[Size]) -> list[Size] | None:
    """The part of a shape that Gather or Slice takes."""
    picks = [constant(operand) for operand in node.inputs[1:]]
    if any(pick is None or pick.size != 1 for pick in picks[: 2 if node.op_type == "Slice" else 0]):
        return None
    if node.op_type == "Gather":
        (indices,) = picks
        if indices is None or indices.ndim > 1 or not (np.abs(indices + 0.5) < len(numbers)).all():
            return None
        return [numbers[index] for index in indices.reshape(-1).tolist()]
    start, end, step = (1 if pick is None else int(pick.reshape(-1)[0]) for pick in (*picks[:2], picks[3] if len(picks) > 3 else None))
    return numbers[start:end] if step == 1 else None


def origin(value: ir.Value, axis: int) -> ir.Value:
    """The earliest value that is known to have as many elements along an axis, counted from the front."""
    node = value.producer()
    while node is not None and (before := _same_size(node, axis)) is not None:
        value, node = before, before.producer()
    return value


def _same_size(node: ir.Node, axis: int) -> ir.Value | None:
    """The input of a node that has the size of its output along an axis."""
    rank = known_rank(node.outputs[0])
    if node.op_type in BY_ELEMENT | QUANTIZERS:
        return node.inputs[0]
    if node.op_type in BY_ROW:
        matrix = is_constant(node.inputs[1]) and known_rank(node.inputs[1]) == 2
        return node.inputs[0] if rank is not None and axis < rank - 1 and matrix else None
    if node.op_type == "Split":
        along = attribute(node, "axis", 0)
        return node.inputs[0] if rank is not None and isinstance(along, int) and along % rank != axis else None
    if node.op_type in WITH_CONSTANT:
        for index in (0, 1):
            operand, other = node.inputs[1 - index], node.inputs[index]
            rank, reach = known_rank(other), known_rank(operand)
            if is_constant(operand) and rank is not None and reach is not None and reach < rank - axis:
                return other
    return None
