"""Simplification of the Reshapes that exporters write.

A Reshape whose shape is computed from its own input gets a constant shape, 0 for each size that stays; the
Shape, Slice, Gather and Concat nodes go. Two Reshapes around a Transpose that together swap the last two axes
become one Transpose. No shape stated in the file is used: a size stays if it is traced back to the same axis
of the same value.
"""

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import (
    Names,
    add_initializer,
    add_node,
    attribute,
    constant,
    graph_of,
    is_constant,
    known_rank,
    nodes_of,
    permutation,
    sort_nodes,
    take_output,
)

Size = int | tuple[ir.Value, int]
"""A number, or the size of an axis of a value."""

BY_ELEMENT = frozenset(
    {"Cast", "Clip", "Erf", "Gelu", "LayerNormalization", "Relu", "Sigmoid", "Softmax", "Tanh"}
)
WITH_CONSTANT = frozenset({"Add", "Div", "Mul", "Sub"})
BY_ROW = frozenset({"MatMul", "MatMulIntegerToFloat"})
QUANTIZERS = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"})
FORMS = frozenset({"Cast", "Identity", "Squeeze", "Unsqueeze"})
"""Operators that do not change the numbers of a shape."""


def fix_reshapes(model: ir.Model) -> bool:
    """Simplify Reshapes, in place; return whether any was simplified."""
    names, modified = Names(model), False
    reshapes = [
        node
        for node in nodes_of(model)
        if node.op_type == "Reshape" and node.domain in ("", "ai.onnx") and len(node.inputs) == 2
    ]
    for node in reshapes:
        swapped = _swapped(node)
        if swapped is not None:
            _transpose(node, swapped, names)
            modified = True
            continue
        shape = _fixed(node) if constant(node.inputs[1]) is None else None
        if shape is not None:
            fresh = names.fresh(f"{node.name}_shape")
            node.replace_input_with(1, add_initializer(model.graph, fresh, np.array(shape, np.int64)))
            modified = True
    return sort_nodes(model) or modified


def _swapped(last: ir.Node) -> ir.Value | None:
    """Return the value whose last two axes Reshape, Transpose and this last Reshape swap; else None."""
    turn = last.inputs[0].producer() if last.inputs[0] is not None else None
    if (
        turn is None
        or turn.op_type != "Transpose"
        or turn.inputs[0] is None
        or permutation(turn) != (0, 2, 1)
    ):
        return None
    first = turn.inputs[0].producer()
    if first is None or first.op_type != "Reshape":
        return None
    x, rank = first.inputs[0], known_rank(first.inputs[0])
    before, after = _numbers(first.inputs[1]), _numbers(last.inputs[1])
    if x is None or rank is None or rank < 3 or before is None or after is None:
        return None
    axes = [(origin(x, axis), axis) for axis in range(rank)]
    traced = [
        [(origin(*size), size[1]) if isinstance(size, tuple) else size for size in sizes]
        for sizes in (before, after)
    ]
    return x if traced == [[-1, *axes[-2:]], [*axes[:-2], axes[-1], axes[-2]]] else None


def _transpose(last: ir.Node, x: ir.Value, names: Names) -> None:
    rank = known_rank(x) or 0
    output = ir.Value(name=names.fresh(f"{last.name}_swapped"))
    name = names.fresh(f"{last.name}_Transpose")
    add_node(
        graph_of(last), "Transpose", [x], [output], name=name, perm=[*range(rank - 2), rank - 1, rank - 2]
    )
    take_output(output, last.outputs[0])
    graph_of(last).remove(last, safe=True)


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
    """Return a computed shape if every number is known or the size of an axis; else None."""
    array = constant(value)
    if array is not None:
        return array.reshape(-1).tolist() if array.dtype.kind == "i" and array.ndim <= 1 else None
    node = value.producer() if value is not None else None
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Shape":
        x, rank = node.inputs[0], known_rank(node.inputs[0])
        bounds = slice(
            *(
                node.attributes[name].as_int() if name in node.attributes else None
                for name in ("start", "end")
            )
        )
        whole: list[Size] = [(x, axis) for axis in range(rank or 0) if x is not None]
        return whole[bounds] if whole else None
    parts = [_numbers(operand) for operand in (node.inputs if node.op_type == "Concat" else node.inputs[:1])]
    if any(part is None for part in parts):
        return None
    numbers = [size for part in parts if part is not None for size in part]
    if node.op_type in (*FORMS, "Concat"):
        return numbers
    return _picked(node, numbers) if node.op_type in ("Gather", "Slice") else None


def _picked(node: ir.Node, numbers: list[Size]) -> list[Size] | None:
    """Return the numbers of a shape that a Gather or Slice selects."""
    picks = [constant(operand) for operand in node.inputs[1:]]
    if any(pick is None or pick.size != 1 for pick in picks[: 2 if node.op_type == "Slice" else 0]):
        return None
    if node.op_type == "Gather":
        (indices,) = picks
        if indices is None or indices.ndim > 1 or not (np.abs(indices + 0.5) < len(numbers)).all():
            return None
        return [numbers[index] for index in indices.reshape(-1).tolist()]
    if len(picks) < 2:
        return None  # before opset 10 the bounds are attributes
    start, end, step = (
        1 if pick is None else int(pick.reshape(-1)[0])
        for pick in (*picks[:2], picks[3] if len(picks) > 3 else None)
    )
    return numbers[start:end] if step == 1 else None


def origin(value: ir.Value, axis: int) -> ir.Value:
    """Return the earliest value known to have the same size along an axis, counted from the front."""
    node = value.producer()
    while node is not None and (before := _same_size(node, axis)) is not None:
        value, node = before, before.producer()
    return value


def _same_size(node: ir.Node, axis: int) -> ir.Value | None:
    """Return the input of a node that has the size of its output along an axis, if any."""
    rank = known_rank(node.outputs[0])
    if node.op_type in BY_ELEMENT | QUANTIZERS:
        return node.inputs[0]
    if node.op_type in BY_ROW:
        matrix = is_constant(node.inputs[1]) and known_rank(node.inputs[1]) == 2
        return node.inputs[0] if rank is not None and axis < rank - 1 and matrix else None
    if node.op_type == "Split":
        along = attribute(node, "axis", 0)
        return (
            node.inputs[0] if rank is not None and isinstance(along, int) and along % rank != axis else None
        )
    if node.op_type in WITH_CONSTANT:
        for index in (0, 1):
            operand, other = node.inputs[1 - index], node.inputs[index]
            rank, reach = known_rank(other), known_rank(operand)
            if is_constant(operand) and rank is not None and reach is not None and reach < rank - axis:
                return other
    return None
