"""Products of one activation, such as query, key and value, as one product and a Split of its result.

That saves a few microseconds per product and costs a copy of the result: it pays with few rows.
"""

import math
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import (
    MICROSOFT,
    Names,
    add_initializer,
    add_node,
    constant,
    graph_of,
    is_constant,
    nodes_of,
    take_output,
    tidy,
)
from onnxq.graph.macs import ShapeByName
from onnxq.graph.shapes import opset_of
from onnxq.normalize.opset import LEAST_OPSET
from onnxq.plan.plan import Plan
from onnxq.types import Array

JOINT = " + "
"""Separator of names in the name of a joint product."""
FEW_ROWS = 64
"""Rows of an activation, batch included, up to which products are joined and attention is fused.

On MiniLM each saves 1 to 3 % up to 16 rows and nothing at 64; with 256 rows in a batch of 8 each costs 1 to 3
%.
"""
STORED, SCALE, ZERO_POINT, BIAS = 1, 3, 5, 6
OWN = STORED, SCALE, ZERO_POINT, BIAS
"""Inputs of MatMulIntegerToFloat that belong to the weight; the others belong to the activation."""


def few_rows(plan: Plan, names: Iterable[str], shapes: ShapeByName) -> bool:
    """Whether the named products have at most FEW_ROWS rows, so that fewer and larger operators pay."""
    inputs = [plan.nodes[name].node.inputs[0] for name in names]
    found = [shapes.get(value.name or "") if value is not None else None for value in inputs]
    return bool(found) and all(shape is not None and math.prod(shape[:-1]) <= FEW_ROWS for shape in found)


def join_products(model: ir.Model) -> bool:
    """Join MatMulIntegerToFloat nodes of the same integers, in place; return whether any were joined."""
    if opset_of(model) < LEAST_OPSET:
        return False
    together: dict[tuple[object, ...], list[ir.Node]] = {}
    for node in nodes_of(model):
        if node.op_type == "MatMulIntegerToFloat" and all(
            is_constant(node.inputs[i]) for i in OWN if i < len(node.inputs)
        ):
            together.setdefault((node.graph, *node.inputs[0:5:2]), []).append(node)
    names = Names(model)
    joined = [
        nodes
        for nodes in together.values()
        if len(nodes) > 1 and not any(_read_elsewhere(node, nodes) for node in nodes)
    ]
    for nodes in joined:
        _join(model, nodes, names)
    return tidy(model) or bool(joined)


def _join(model: ir.Model, nodes: list[ir.Node], names: Names) -> None:
    graph, first = graph_of(nodes[0]), nodes[0]
    base = JOINT.join(node.name or "" for node in nodes)
    widths = [_columns(node, STORED).shape[-1] for node in nodes]
    inputs = [*first.inputs[:BIAS], None]
    for index in OWN:
        whole = np.concatenate([_columns(node, index) for node in nodes], axis=-1)
        inputs[index] = add_initializer(model.graph, names.fresh(f"{base}_{index}"), whole)
    like = first.outputs[0]
    shape = ir.Shape([*like.shape[:-1], sum(widths)]) if like.shape is not None else None
    result = ir.Value(name=names.fresh(f"{base}_result"), shape=shape, type=like.type)
    add_node(graph, first.op_type, inputs, [result], name=names.fresh(base), domain=MICROSOFT)
    parts = [ir.Value(name=names.fresh(f"{base}_part")) for _ in nodes]
    sizes = add_initializer(model.graph, names.fresh(f"{base}_sizes"), np.array(widths, np.int64))
    add_node(graph, "Split", [result, sizes], parts, name=names.fresh(f"{base}_Split"), axis=-1)
    for node, part in zip(nodes, parts, strict=True):
        take_output(part, node.outputs[0])


def _read_elsewhere(node: ir.Node, nodes: list[ir.Node]) -> bool:
    """Whether other nodes share the weight: a joint weight would be a second copy."""
    stored = node.inputs[STORED]
    return stored is not None and any(use.node not in nodes for use in stored.uses())


def _columns(node: ir.Node, index: int) -> Array:
    """Return an input of a product with a value for each column, `[.., columns]`."""
    stored = constant(node.inputs[STORED])
    assert stored is not None
    if index >= len(node.inputs):
        return np.zeros(stored.shape[1], np.float32)
    array = constant(node.inputs[index])
    assert array is not None
    return array if index == STORED else np.broadcast_to(array.reshape(-1), stored.shape[1])
