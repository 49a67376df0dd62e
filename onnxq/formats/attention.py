"""Fusion of attention into the runtime's MultiHeadAttention.

The operator replaces four Transposes, four Reshapes and two products. softmax(scale Q K^T + mask) V stays in
float: its products have two activations. The fusion saves the copies and the nodes around them, an eighth of
a small transformer's time on short sequences once its other products run on integers; with many rows it saves
nothing (`joint_products.FEW_ROWS`). The runtime itself fuses attention only behind float products.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import (
    MICROSOFT,
    Names,
    add_initializer,
    add_node,
    attribute,
    constant,
    is_constant,
    is_float,
    known_rank,
    nodes_of,
    only_use,
    permutation,
    take_output,
    tidy,
)
from onnxq.graph.shapes import opset_of
from onnxq.normalize.opset import LEAST_OPSET
from onnxq.normalize.reshapes import origin

TO_HEADS, FOR_PRODUCT, SWAPPED = (0, 2, 1, 3), (0, 2, 3, 1), (0, 1, 3, 2)
"""Orders of axes, from `[batch, rows, heads, size]`: by heads and back; to K^T; from by heads to K^T."""


@dataclass(frozen=True)
class Heads:
    """A tensor `[batch, rows, heads * size]` that is split into heads."""

    value: ir.Value
    heads: int
    size: int


@dataclass(frozen=True)
class Attention:
    """Operands of the fused operator; `last` is the Reshape to `[batch, rows, heads * size]`."""

    query: Heads
    key: Heads
    value: Heads
    scale: float
    mask: ir.Value | None
    last: ir.Node


def fuse_attention(model: ir.Model) -> bool:
    """Fuse all float attention that the operator can compute, in place; return whether there was any."""
    last_axis = {-1, 3} if opset_of(model) >= LEAST_OPSET else {3}
    softmaxes = [
        node
        for node in nodes_of(model)
        if node.op_type == "Softmax" and attribute(node, "axis", -1) in last_axis
    ]
    found = [each for node in softmaxes if (each := find_attention(node)) is not None]
    if not found:
        return False
    model.graph.opset_imports.setdefault(MICROSOFT, 1)
    names, masks = Names(model), dict[tuple[object, ...], ir.Value]()
    for each in found:
        _replace(each, names, masks)
    tidy(model)
    return True


def find_attention(softmax: ir.Node) -> Attention | None:
    """Return the attention around a Softmax over the last axis, None if the operator cannot compute it."""
    product, scale, mask = _scores(softmax.inputs[0])
    behind = only_use(softmax.outputs[0])
    if (
        product is None
        or behind is None
        or behind.op_type != "MatMul"
        or behind.inputs[0] is not softmax.outputs[0]
    ):
        return None
    query, by_query = _unscaled(product.inputs[0])
    key, by_key = _unscaled(product.inputs[1])
    q, k, v = _by_heads(query, TO_HEADS), _key(key), _by_heads(behind.inputs[1], TO_HEADS)
    if q is None or k is None or v is None or len({(part.heads, part.size) for part in (q, k, v)}) > 1:
        return None
    last = _joined(behind, q)
    if last is None or not _fits(mask, q):
        return None
    return Attention(q, k, v, scale * by_query * by_key, mask, last)


def _scores(value: ir.Value | None) -> tuple[ir.Node | None, float, ir.Value | None]:
    """Return Q K^T, its factor, and the mask added."""
    product, scale = _scaled(value)
    added = _producer_of(value, "Add")
    if product is not None or added is None:
        return product, scale, None
    for index in (0, 1):
        product, scale = _scaled(added.inputs[index])
        if product is not None:
            return product, scale, added.inputs[1 - index]
    return None, 1.0, None


def _producer_of(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Return the producer of a value, if it has one of these types and the value has one consumer."""
    node = value.producer() if value is not None else None
    return (
        node
        if value is not None and node is not None and node.op_type in op_types and only_use(value) is not None
        else None
    )


def _unscaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """Return the value before a Mul or Div by a scalar, and the factor."""
    node = _producer_of(value, "Mul", "Div")
    if node is not None:
        for index in (1, 0) if node.op_type == "Mul" else (1,):
            array = constant(node.inputs[index])
            if array is not None and array.size == 1 and array.ndim <= 3:
                number = float(array.reshape(()))
                return node.inputs[1 - index], number if node.op_type == "Mul" else 1 / number
    return value, 1.0


def _scaled(value: ir.Value | None) -> tuple[ir.Node | None, float]:
    """Return the product of two activations before an optional scaling, and the factor."""
    inner, number = _unscaled(value)
    node = _producer_of(inner, "MatMul")
    return (
        (None, 1.0)
        if node is None or any(is_constant(operand) for operand in node.inputs)
        else (node, number)
    )


def _key(value: ir.Value | None) -> Heads | None:
    """Return the second operand of Q K^T, which is transposed once or twice."""
    outer = _producer_of(value, "Transpose")
    if outer is not None and permutation(outer) == SWAPPED:
        return _by_heads(outer.inputs[0], TO_HEADS)
    return _by_heads(value, FOR_PRODUCT)


def _by_heads(value: ir.Value | None, order: tuple[int, ...]) -> Heads | None:
    """Return the tensor before a Reshape to `[batch, rows, heads, size]` and a Transpose of this order."""
    turned = _producer_of(value, "Transpose")
    split = (
        _producer_of(turned.inputs[0], "Reshape")
        if turned is not None and permutation(turned) == order
        else None
    )
    whole = split.inputs[0] if split is not None else None
    if (
        split is None
        or whole is None
        or not is_float(whole)
        or known_rank(whole) != 3
        or known_rank(split.outputs[0]) != 4
    ):
        return None
    width, wanted, kept = _dims(whole)[2], constant(split.inputs[1]), _kept(split)
    if wanted is None or not isinstance(width, int) or not any(kept):
        return None
    heads, size = wanted[2:].tolist()
    if size == -1 and heads > 0 and all(kept):
        size = width // heads
    return Heads(whole, heads, size) if heads > 0 and heads * size == width else None


def _joined(product: ir.Node, like: Heads) -> ir.Node | None:
    """Return the Reshape to `[batch, rows, heads * size]` behind the product with V."""
    turned = only_use(product.outputs[0])
    if turned is None or turned.op_type != "Transpose" or permutation(turned) != TO_HEADS:
        return None
    joined = only_use(turned.outputs[0])
    if joined is None or joined.op_type != "Reshape" or known_rank(joined.outputs[0]) != 3:
        return None
    wanted, kept = constant(joined.inputs[1]), _kept(joined)
    whole = wanted is not None and wanted[2] == like.heads * like.size
    return joined if all(kept) or (any(kept) and whole) else None


def _dims(value: ir.Value) -> list[int | str | None]:
    assert value.shape is not None
    return [size if isinstance(size, int) else size.value for size in value.shape]


def _kept(reshape: ir.Node) -> tuple[bool, bool]:
    """Whether a Reshape keeps the first axis, and whether it keeps the second one."""
    x, wanted = reshape.inputs[0], constant(reshape.inputs[1])
    if (
        x is None
        or wanted is None
        or len(wanted) < 2
        or (attribute(reshape, "allowzero", 0) and not wanted.all())
    ):
        return False, False
    same = [size in (0, before) for size, before in zip(wanted[:2].tolist(), _dims(x)[:2], strict=True)]
    return same[0], same[1]


def _fits(mask: ir.Value | None, query: Heads) -> bool:
    """Whether the operator accepts a mask: `[batch or 1, heads or 1, rows or 1, columns]`."""
    if mask is None:
        return True
    if known_rank(mask) != 4 or not is_float(mask):
        return False
    batch, heads, _, columns = _dims(mask)
    return (
        batch in (1, _dims(query.value)[0])
        and batch is not None
        and heads in (1, query.heads)
        and columns not in (1, None)
    )


def _replace(found: Attention, names: Names, masks: dict[tuple[object, ...], ir.Value]) -> None:
    graph, query = found.last.graph, found.query.value
    assert isinstance(graph, ir.Graph)
    inputs: list[ir.Value | None] = [query, found.key.value, found.value.value]
    if found.mask is not None:
        # self-attention has as many rows as the mask has columns: one expanded mask serves all layers
        same = (
            (found.mask, graph)
            if origin(query, 1) is origin(found.key.value, 1)
            else (found.mask, graph, query)
        )
        if same not in masks:
            masks[same] = _full_mask(graph, found.mask, query, names)
        inputs += [None, None, masks[same]]
    output = ir.Value(name=names.fresh(f"{found.last.name}_attention"))
    add_node(
        graph, "MultiHeadAttention", inputs, [output],
        name=names.fresh(f"{found.last.name}_Attention"), domain=MICROSOFT,
        num_heads=found.query.heads, scale=found.scale,
    )  # fmt: skip
    take_output(output, found.last.outputs[0])


def _full_mask(graph: ir.Graph, mask: ir.Value, query: ir.Value, names: Names) -> ir.Value:
    """Expand a mask to the query's rows: the operator broadcasts over batch and heads, not over rows."""
    stated = _dims(mask)[2]
    if isinstance(stated, int) and stated > 1:
        return mask
    one, ones = (
        add_initializer(graph, names.fresh(f"{mask.name}_ones"), np.ones(count, np.int64)) for count in (1, 2)
    )
    shape, rows, sizes, result = (ir.Value(name=names.fresh(f"{mask.name}_rows")) for _ in range(4))
    add_node(graph, "Shape", [query], [shape], name=names.fresh(f"{mask.name}_Shape"))
    add_node(graph, "Gather", [shape, one], [rows], name=names.fresh(f"{mask.name}_Gather"), axis=0)
    add_node(graph, "Concat", [ones, rows, one], [sizes], name=names.fresh(f"{mask.name}_Concat"), axis=0)
    add_node(graph, "Expand", [mask, sizes], [result], name=names.fresh(f"{mask.name}_Expand"))
    return result
