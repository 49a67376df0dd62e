"""Rewrites of subgraphs into the forms that the runtime fuses into one kernel.

Each rule: the exporter's form, the equivalent plain ONNX, and the runtime's fusion.

    x * (0.5 * (1 + Erf(x / sqrt 2))), or Tanh
        -> (x * 0.5) * (1 + Erf(x / sqrt 2))          Gelu, FastGelu
    Erf(x / 1.414), rounded to half precision
        -> Erf(x / sqrt 2)                            Gelu
    x * Reciprocal(Sqrt(ReduceMean(x^2) + epsilon))
        -> x / Sqrt(ReduceMean(x^2) + epsilon)        SimplifiedLayerNormalization
    Where(IsNaN(Softmax(s)), 0, Softmax(s)), s without -inf
        -> Softmax(s)                                 attention
    (x - mean) / Sqrt(mean((x - mean)^2) + epsilon), or * 1/
        -> InstanceNormalization(x)                   itself

PyTorch's default exporter (2.13) writes the first three; the last one is hand-written, with means over the
pixels.
"""

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import (
    Names,
    add_initializer,
    add_node,
    attribute,
    constant,
    is_float,
    known_rank,
    only_use,
    reduced_axes,
    scalar_operand,
    take_output,
)

ROOT = math.sqrt(2.0)
"""Divisor in front of the Erf of a Gelu; the runtime does not fuse the rounded one of half precision."""


def rewrite_for_fusions(model: ir.Model, names: Names) -> bool:
    """Apply the rules to the main graph and the bodies, in place; return whether any applied."""
    modified = False
    for graph in list(model.graphs()):
        for node in list(graph):
            if (
                node.graph is graph
                and node.domain in ("", "ai.onnx")
                and node.op_type in RULES
                and is_float(node.outputs[0])
            ):
                modified |= RULES[node.op_type](graph, node, names)
    return modified


def _gelu(graph: ir.Graph, erf: ir.Node, names: Names) -> bool:
    """Give a Gelu of a half-precision model the exact root of 2, and halve x instead of the curve."""
    scaled, modified = _producer(erf.inputs[0], "Div"), False
    divisor = constant(scaled.inputs[1]) if scaled is not None else None
    if scaled is not None and divisor is not None and divisor.size == 1:
        number = float(divisor.item())
        if number == float(np.float16(ROOT)):
            exact = np.full(divisor.shape, ROOT, np.float32)
            scaled.replace_input_with(1, add_initializer(graph, names.fresh(f"{scaled.name}_root"), exact))
            modified = True
    return _half_first(graph, erf, names) or modified


def _half_first(_: ir.Graph, curve: ir.Node, __: Names) -> bool:
    """Halve x instead of the curve; halving is exact in both places."""
    raised = _by_scalar(curve.outputs[0], "Add", 1.0)
    halved = _by_scalar(raised.outputs[0], "Mul", 0.5) if raised is not None else None
    last = only_use(halved.outputs[0]) if halved is not None else None
    if (
        raised is None
        or halved is None
        or last is None
        or last.op_type != "Mul"
        or last.inputs[0] is last.inputs[1]
    ):
        return False
    index = list(last.inputs).index(halved.outputs[0])
    x = last.inputs[1 - index]
    if x is None or x.dtype != raised.outputs[0].dtype or x.shape != raised.outputs[0].shape:
        return False
    halved.replace_input_with(list(halved.inputs).index(raised.outputs[0]), x)
    last.replace_input_with(1 - index, raised.outputs[0])
    return True


def find_gelu(erf: ir.Node) -> tuple[ir.Value, ir.Node] | None:
    """Return the input and the last node of the Gelu that an Erf belongs to; None if there is no Gelu."""
    scaled, raised = _producer(erf.inputs[0], "Div"), _by_scalar(erf.outputs[0], "Add", 1.0)
    last = only_use(raised.outputs[0]) if raised is not None else None
    if (
        scaled is None
        or raised is None
        or last is None
        or last.op_type != "Mul"
        or only_use(scaled.outputs[0]) is None
    ):
        return None
    x, divisor = scaled.inputs[0], constant(scaled.inputs[1])
    if x is None or divisor is None or divisor.size != 1 or not np.isclose(divisor.item(), ROOT, rtol=1e-5):
        return None
    other = next((value for value in last.inputs if value is not raised.outputs[0]), None)
    if other is x:
        end = _by_scalar(last.outputs[0], "Mul", 0.5)
        return (x, end) if end is not None else None
    halved = _producer(other, "Mul")
    found = halved is not None and scalar_operand(halved) == (x, 0.5) and only_use(halved.outputs[0]) is last
    return (x, last) if found else None


def gelu_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Return all nodes of the Gelus in a graph that consist of single operators."""
    members: set[ir.Node] = set()
    for node in graph:
        found = find_gelu(node) if node.op_type == "Erf" else None
        left = [found[1]] if found is not None else []
        while found is not None and left:
            member = left.pop()
            members.add(member)
            left += [
                before
                for value in member.inputs
                if value is not found[0] and value is not None and (before := value.producer()) is not None
            ]
    return members


def ends_gelu(node: ir.Node) -> bool:
    """Whether a node is the last of a Gelu that the runtime fuses; folding it would prevent the fusion."""
    product, number = scalar_operand(node) if node.op_type == "Mul" else (None, None)
    before = _producer(product, "Mul")
    raised = (
        [_producer(value, "Add") for value in before.inputs] if before is not None and number == 0.5 else []
    )
    return any(
        _producer(value, "Erf") is not None for add in raised if add is not None for value in add.inputs
    )


def _by_scalar(value: ir.Value, op_type: str, number: float) -> ir.Node | None:
    """Return the only consumer of a value if it adds that number or multiplies by it."""
    node = only_use(value)
    if node is None or node.op_type != op_type:
        return None
    x, found = scalar_operand(node)
    return node if x is value and found == number else None


def _root_mean_square(graph: ir.Graph, reciprocal: ir.Node, names: Names) -> bool:
    """Divide by the root instead of multiplying by its reciprocal."""
    root, last = _producer(reciprocal.inputs[0], "Sqrt"), only_use(reciprocal.outputs[0])
    raised = _producer(root.inputs[0], "Add") if root is not None else None
    mean = _producer(scalar_operand(raised)[0], "ReduceMean") if raised is not None else None
    square = _producer(mean.inputs[0], "Pow") if mean is not None else None
    if (
        root is None
        or mean is None
        or square is None
        or last is None
        or last.op_type != "Mul"
        or square.inputs[0] not in last.inputs
    ):
        return False
    output = ir.Value()
    if not _is_number(square.inputs[1], 2) or last.graph is not graph or not _over_last_axis(mean):
        return False
    add_node(
        graph, "Div", [square.inputs[0], root.outputs[0]], [output], name=names.fresh(f"{last.name}_Div")
    )
    take_output(output, last.outputs[0])
    graph.remove([last, reciprocal], safe=True)
    return True


def _over_last_axis(mean: ir.Node) -> bool:
    return reduced_axes(mean) in ([-1], [(known_rank(mean.inputs[0]) or 0) - 1])


def _instance_norm(graph: ir.Graph, root: ir.Node, names: Names) -> bool:
    """Replace a hand-written normalization over the pixels."""
    raised = _producer(root.inputs[0], "Add")
    variance, epsilon = scalar_operand(raised) if raised is not None else (None, None)
    squares = _producer(variance, "ReduceMean")
    square = squares.inputs[0].producer() if squares is not None and squares.inputs[0] is not None else None
    central = _producer(square.inputs[0], "Sub") if square is not None and _squares(square) else None
    means = _producer(central.inputs[1], "ReduceMean") if central is not None else None
    last = _divided(root)
    if (
        squares is None
        or central is None
        or means is None
        or last is None
        or epsilon is None
        or last.graph is not graph
    ):
        return False
    x, output = central.inputs[0], ir.Value()
    shape = x.shape if x is not None else None
    # with three axes it is a LayerNormalization
    channels = shape[1] if shape is not None and len(shape) > 3 else None
    if central.outputs[0] not in last.inputs or means.inputs[0] is not x or not isinstance(channels, int):
        return False
    if not (_over_places(squares) and _over_places(means)):
        return False
    scale, shift = (
        add_initializer(graph, names.fresh(f"{last.name}_{part}"), np.full(channels, value, np.float32))
        for part, value in (("scale", 1), ("shift", 0))
    )
    inputs = [x, scale, shift]
    add_node(
        graph,
        "InstanceNormalization",
        inputs,
        [output],
        name=names.fresh(f"{last.name}_norm"),
        epsilon=epsilon,
    )
    take_output(output, last.outputs[0])
    graph.remove([last], safe=True)
    return True


def _squares(node: ir.Node) -> bool:
    if node.op_type == "Pow":
        return _is_number(node.inputs[1], 2)
    return node.op_type == "Mul" and node.inputs[0] is node.inputs[1]


def _divided(root: ir.Node) -> ir.Node | None:
    """Return the node that divides by a root or multiplies by its inverse."""
    taker = only_use(root.outputs[0])
    if taker is None:
        return None
    if taker.op_type == "Reciprocal" or (taker.op_type == "Div" and _is_number(taker.inputs[0], 1)):
        last = only_use(taker.outputs[0])
        return last if last is not None and last.op_type == "Mul" else None
    return taker if taker.op_type == "Div" and taker.inputs[1] is root.outputs[0] else None


def _is_number(value: ir.Value | None, number: float) -> bool:
    array = constant(value)
    return array is not None and array.size == 1 and array.item() == number


def _over_places(mean: ir.Node) -> bool:
    """Whether a mean is over all axes but the first two and keeps the reduced axes."""
    rank = known_rank(mean.inputs[0]) or 0
    return bool(attribute(mean, "keepdims", 1)) and {axis % rank for axis in reduced_axes(mean)} == set(
        range(2, rank)
    )


def _remove_nan_guard(graph: ir.Graph, guard: ir.Node, _: Names) -> bool:
    """Remove a test for NaN behind a Softmax: a row of -inf gives NaN, but finite masks cause no such row."""
    tested, zero, kept = guard.inputs
    isnan, softmax = _producer(tested, "IsNaN"), _producer(kept, "Softmax")
    nothing = constant(zero)
    if (
        isnan is None
        or softmax is None
        or kept is None
        or isnan.inputs[0] is not kept
        or only_use(isnan.outputs[0]) is not guard
    ):
        return False
    if (
        nothing is None
        or nothing.size > 1
        or nothing.any()
        or guard.outputs[0].is_graph_output()
        or not _without_infinity(softmax.inputs[0])
    ):
        return False
    ir.convenience.replace_all_uses_with(guard.outputs[0], kept)
    graph.remove([guard, isnan], safe=True)
    return True


def _without_infinity(scores: ir.Value | None) -> bool:
    """Whether scores are products of activations to which only finite constants are added."""
    node = scores.producer() if scores is not None else None
    if node is None:
        return False
    if node.op_type == "Add":
        return any(
            _without_infinity(x) and _finite_choice(mask) for x, mask in (node.inputs, node.inputs[::-1])
        )
    if node.op_type in ("Mul", "Div"):
        return any(_without_infinity(x) and _finite(number) for x, number in (node.inputs, node.inputs[::-1]))
    return node.op_type == "MatMul"


def _finite_choice(mask: ir.Value | None) -> bool:
    node = _producer(mask, "Where")
    return _finite(mask) or (node is not None and all(_finite(value) for value in node.inputs[1:]))


def _finite(value: ir.Value | None) -> bool:
    array = constant(value)
    return array is not None and bool(np.isfinite(array).all())


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type else None


RULES: dict[str, Callable[[ir.Graph, ir.Node, Names], bool]] = {
    "Erf": _gelu,
    "Tanh": _half_first,
    "Reciprocal": _root_mean_square,
    "Where": _remove_nan_guard,
    "Sqrt": _instance_norm,
}
"""Rules by operator: each rewrites, in place, where it applies, and returns whether it did."""
