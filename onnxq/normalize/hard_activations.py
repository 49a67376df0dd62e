"""One form for hard activations: HardSigmoid, which on integers is a Clip with another scale.

HardSwish(x)                                -> x * HardSigmoid(x)
Clip(x + c, 0, h) / h, or * 1/h             -> HardSigmoid(x), alpha = 1/h, beta = c/h
x * Clip(x + c, 0, h) / h, or * 1/h         -> x * HardSigmoid(x)
"""

import math

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import (
    Names,
    add_node,
    attribute,
    constant,
    is_float,
    only_use,
    scalar_operand,
    take_output,
)


def unify_activations(model: ir.Model, names: Names) -> bool:
    """Apply the rules to the main graph and the bodies, in place; return whether any applied."""
    modified = False
    for graph in list(model.graphs()):
        for node in list(graph):
            if node.graph is not graph or node.domain not in ("", "ai.onnx") or not is_float(node.outputs[0]):
                continue
            if node.op_type == "HardSwish":
                _gate(graph, node, node.inputs[0], 1 / 6, 0.5, names)
                modified = True
            elif node.op_type == "Clip":
                modified |= _from_clip(graph, node, names)
    return modified


def _from_clip(graph: ir.Graph, clip: ir.Node, names: Names) -> bool:
    """Replace a HardSigmoid or HardSwish written with an Add, a Clip and a division."""
    added = clip.inputs[0].producer() if clip.inputs[0] is not None else None
    bounds = _bounds(clip)
    if (
        added is None
        or added.op_type != "Add"
        or bounds is None
        or bounds[0] != 0
        or not 0 < bounds[1] < math.inf
    ):
        return False
    x, shift = scalar_operand(added)
    if x is None or shift is None:
        return False
    high = bounds[1]
    alpha, beta = 1 / high, shift / high
    follower = only_use(clip.outputs[0])
    if follower is None:
        return False
    if _divides_by(follower, clip.outputs[0], high):
        output = ir.Value()
        add_node(
            graph,
            "HardSigmoid",
            [x],
            [output],
            name=names.fresh(f"{clip.name}_HardSigmoid"),
            alpha=alpha,
            beta=beta,
        )
        take_output(output, follower.outputs[0])
        graph.remove([follower, clip], safe=True)
        _remove_unused(graph, added)
        return True
    if follower.op_type == "Mul" and x in follower.inputs and follower.inputs[0] is not follower.inputs[1]:
        last = only_use(follower.outputs[0])
        if last is not None and _divides_by(last, follower.outputs[0], high):
            _gate(graph, last, x, alpha, beta, names)
            graph.remove([follower, clip], safe=True)
            _remove_unused(graph, added)
            return True
    return False


def _gate(
    graph: ir.Graph, node: ir.Node, x: ir.Value | None, alpha: float, beta: float, names: Names
) -> None:
    """Replace a node by x * HardSigmoid(x)."""
    assert x is not None
    ramp = ir.Value(name=names.fresh(f"{node.outputs[0].name}_gate"), type=x.type, shape=x.shape)
    add_node(
        graph,
        "HardSigmoid",
        [x],
        [ramp],
        name=names.fresh(f"{node.name}_HardSigmoid"),
        alpha=alpha,
        beta=beta,
    )
    output = ir.Value()
    add_node(graph, "Mul", [x, ramp], [output], name=names.fresh(f"{node.name}_Mul"))
    take_output(output, node.outputs[0])
    graph.remove(node, safe=True)


def _remove_unused(graph: ir.Graph, node: ir.Node) -> None:
    if not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
        graph.remove(node, safe=True)


def _bounds(clip: ir.Node) -> tuple[float, float] | None:
    if len(clip.inputs) == 1:
        low, high = (
            attribute(clip, key, default) for key, default in (("min", -math.inf), ("max", math.inf))
        )
        assert isinstance(low, (int, float))
        assert isinstance(high, (int, float))
        return float(low), float(high)
    arrays = [constant(value) for value in (*clip.inputs[1:], None)[:2]]
    if any(array is None or array.size != 1 for array in arrays):
        return None
    return float(arrays[0].reshape(())), float(arrays[1].reshape(()))  # type: ignore[union-attr]


def _divides_by(node: ir.Node, value: ir.Value, divisor: float) -> bool:
    if node.op_type == "Div" and node.inputs[0] is value:
        array = constant(node.inputs[1])
        number = float(array.reshape(())) if array is not None and array.size == 1 else 0.0
    elif node.op_type == "Mul":
        x, factor = scalar_operand(node)
        number = 1 / factor if x is value and factor else 0.0
    else:
        return False
    return bool(np.isclose(number, divisor, rtol=1e-5))
