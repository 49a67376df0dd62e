"""Activations with two slopes, written out with Relu, Abs, Neg and arithmetic, become one LeakyRelu or PRelu.

Such a value is p * x where x > 0 and n * x elsewhere, with p and n per channel. Relu, Abs, Neg, products with
constants, and sums of two such values keep that form, so that each expression reduces to its p and n:

Relu(x) - slope * Relu(-x), Relu(x) + slope * (x - Abs(x)) / 2, ...     -> PRelu(x, slope)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import Names, add_initializer, add_node, constant, is_float, sizes, take_output, tidy
from onnxq.types import Array

FEWEST_NODES = 3
"""Nodes that one operator must replace; a Relu or Abs alone is one operator already."""
DEEPEST = 8
"""Nodes between the sum and x, at most; sums of sums double at each step."""


@dataclass(frozen=True)
class _Slopes:
    """A value as a function of another one.

    root      value x
    positive  factor of x where x > 0; broadcasts to x
    negative  factor of x elsewhere
    nodes     nodes on the way
    """

    root: ir.Value
    positive: Array
    negative: Array
    nodes: frozenset[ir.Node] = frozenset()


def join_slopes(model: ir.Model) -> bool:
    """Replace written-out activations in the main graph and the bodies, in place."""
    names, modified = Names(model), False
    for graph in list(model.graphs()):
        for node in reversed(list(graph)):
            if node.graph is graph and node.op_type in ("Add", "Sub") and is_float(node.outputs[0]):
                modified |= _join(model, graph, node, names)
    return modified and (tidy(model) or True)


def _join(model: ir.Model, graph: ir.Graph, node: ir.Node, names: Names) -> bool:
    """Replace a sum by one operator, if its operands have two slopes and nothing else uses those."""
    found = _of_node(node, DEEPEST)
    if found is None or len(found.nodes) < FEWEST_NODES or not np.all(found.positive == 1):
        return False
    inner = found.nodes - {node}
    alone = all(use.node in found.nodes for one in inner for use in one.outputs[0].uses())
    if not alone or any(one.outputs[0].is_graph_output() for one in inner):
        return False
    slope = np.asarray(found.negative, np.float32)
    output, name = ir.Value(), names.fresh(f"{node.name}_slopes")
    if np.all(slope == slope.flat[0]):
        add_node(graph, "LeakyRelu", [found.root], [output], name=name, alpha=float(slope.flat[0]))
    else:
        stored = add_initializer(model.graph, names.fresh(f"{node.name}_slope"), slope)
        add_node(graph, "PRelu", [found.root, stored], [output], name=name)
    old = node.outputs[0]
    take_output(output, old)
    graph.remove(node, safe=True)
    return True


def _of_value(value: ir.Value | None, depth: int) -> _Slopes | None:
    if value is None:
        return None
    producer = value.producer()
    found = _of_node(producer, depth - 1) if producer is not None and depth else None
    one = np.ones((), np.float64)
    return found or _Slopes(value, one, one)


def _of_node(node: ir.Node, depth: int) -> _Slopes | None:
    """Return the slopes of a node's result, None where its operator does not keep the form."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in UNARY:
        inner = _of_value(node.inputs[0], depth)
        if inner is None:
            return None
        positive, negative = UNARY[node.op_type](inner.positive, inner.negative)
        return _Slopes(inner.root, positive, negative, inner.nodes | {node})
    if node.op_type in ("Mul", "Div"):
        return _scaled(node, depth)
    if node.op_type in ("Add", "Sub"):
        return _summed(node, depth)
    return None


UNARY: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "Abs": lambda p, n: (np.abs(p), -np.abs(n)),
    "Neg": lambda p, n: (-p, -n),
    "Relu": lambda p, n: (np.maximum(p, 0), np.minimum(n, 0)),  # n * x > 0 for x < 0 where n < 0
}
"""Slopes of an operator's result from those of its operand, by operator."""


def _scaled(node: ir.Node, depth: int) -> _Slopes | None:
    """Return the slopes of a product with a constant, or of a quotient by one."""
    operands = list(node.inputs)
    factors = [constant(value) for value in operands]
    if node.op_type == "Div" or factors[0] is None:
        operands, factors = operands[::-1], factors[::-1]
    factor, inner = factors[0], _of_value(operands[1], depth)
    if factor is None or inner is None or not _fits(factor, inner.root):
        return None
    factor = factor.astype(np.float64)
    if node.op_type == "Div":
        if not factor.all():
            return None
        factor = 1 / factor
    return _Slopes(inner.root, inner.positive * factor, inner.negative * factor, inner.nodes | {node})


def _summed(node: ir.Node, depth: int) -> _Slopes | None:
    """Return the slopes of a sum or difference of two values of one root."""
    one, other = (_of_value(value, depth) for value in node.inputs)
    if one is None or other is None or one.root is not other.root:
        return None
    sign = 1 if node.op_type == "Add" else -1
    return _Slopes(
        one.root,
        one.positive + sign * other.positive,
        one.negative + sign * other.negative,
        one.nodes | other.nodes | {node},
    )


def _fits(factor: Array, root: ir.Value) -> bool:
    """Whether a finite factor broadcasts to a value without changing its shape."""
    shape = sizes(root)
    if not np.isfinite(factor).all():
        return False
    if factor.size == 1:
        return root.shape is not None and factor.ndim <= len(root.shape)
    if root.shape is None or factor.ndim > len(root.shape):
        return False
    known = shape or tuple(each if isinstance(each, int) else -1 for each in root.shape)
    return all(a in (1, b) for a, b in zip(factor.shape[::-1], known[::-1], strict=False))
