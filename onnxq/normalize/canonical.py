"""One form for what can be written in several: the planner's table then needs one row for it.

Max(x, c), Min(x, c), scalar c          -> Clip(x, c), Clip(x, , c)
Gemm with alpha or beta                 -> folded into constant weight and bias
Gemm with a C that is no bias vector    -> Gemm without C, then Add
MatMul(A, B) of rank 2, then Add(bias)  -> Gemm(A, B, bias)
MatMul(A, B) of rank 2, then Add(other) -> Gemm(A, B), then Add
ReduceMean over the axes of an image    -> GlobalAveragePool, then Flatten where the axes go
"""

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import (
    Names,
    add_initializer,
    add_node,
    attribute,
    constant,
    factor,
    input_at,
    is_constant,
    is_float,
    known_rank,
    only_use,
    reduced_axes,
    sizes,
    take_output,
)
from onnxq.graph.fusions import make_fusible
from onnxq.normalize.hard_activations import unify_activations


def canonicalize(model: ir.Model) -> None:
    """Apply all rules to the main graph and the bodies, in place."""
    names = Names(model)
    unify_activations(model, names)
    make_fusible(model, names)
    for graph in list(model.graphs()):
        for node in list(graph):
            if node.domain in ("", "ai.onnx"):
                _canonicalize(graph, node, names)
    model.graph.sort()


def _canonicalize(graph: ir.Graph, node: ir.Node, names: Names) -> None:
    if node.op_type in ("Max", "Min"):
        _clip(graph, node, names)
    elif node.op_type == "Gemm":
        _fold_gemm_factors(graph, node, names)
        _gemm_bias(graph, node, names)
    elif node.op_type == "MatMul":
        _gemm_from_matmul(graph, node, names)
    elif node.op_type == "ReduceMean":
        _pool_from_mean(graph, node, names)


def _clip(graph: ir.Graph, node: ir.Node, names: Names) -> None:
    if len(node.inputs) != 2 or not is_float(node.outputs[0]):
        return
    for x, bound in (node.inputs, node.inputs[::-1]):
        limit = constant(bound)
        if limit is None or limit.size != 1 or is_constant(x) or (known_rank(x) or 0) < limit.ndim:
            continue
        scalar = add_initializer(graph, names.fresh(f"{node.outputs[0].name}_bound"), limit.reshape(()))
        bounds = [x, scalar] if node.op_type == "Max" else [x, None, scalar]
        output = ir.Value()
        clip = add_node(graph, "Clip", bounds, [output], name=names.fresh(f"{node.name}_clip"))
        take_output(clip.outputs[0], node.outputs[0])
        graph.remove(node, safe=True)
        return


def _fold_gemm_factors(graph: ir.Graph, node: ir.Node, names: Names) -> None:
    for key, index in (("alpha", 1), ("beta", 2)):
        number = factor(node, key, 1.0)
        operand = input_at(node, index)
        array = constant(operand)
        if number == 1.0 or (operand is not None and array is None):
            continue
        if array is not None and operand is not None:
            scaled = (array.astype(np.float64) * number).astype(array.dtype)
            node.replace_input_with(
                index, add_initializer(graph, names.fresh(f"{operand.name}_{key}"), scaled)
            )
        node.attributes.pop(key, None)


def _gemm_bias(graph: ir.Graph, node: ir.Node, names: Names) -> None:
    """A constant C that is one value or one row becomes [N]; any other C becomes an Add."""
    c = input_at(node, 2)
    if c is None:
        return
    weight = sizes(node.inputs[1])
    if weight is None:
        return
    width = weight[0] if attribute(node, "transB", 0) else weight[1]
    array = constant(c)
    if array is not None and (array.size == 1 or (array.size == width and array.shape[-1] == width)):
        if array.shape != (width,):
            row = np.broadcast_to(array.reshape(-1), (width,)).copy()
            node.replace_input_with(2, add_initializer(graph, names.fresh(f"{c.name}_row"), row))
        return
    if attribute(node, "beta", 1.0) != 1.0:
        return
    old = node.outputs[0]
    product = ir.Value(name=names.fresh(f"{old.name}_product"), type=old.type, shape=old.shape)
    kept = {key: value for key, value in node.attributes.items() if key != "beta"}
    graph.append(ir.Node("", "Gemm", node.inputs[:2], list(kept.values()), outputs=[product], name=node.name))
    output = ir.Value()
    add_node(graph, "Add", [product, c], [output], name=names.fresh(f"{node.name}_add"))
    take_output(output, old)
    graph.remove(node, safe=True)


def _gemm_from_matmul(graph: ir.Graph, node: ir.Node, names: Names) -> None:
    """With a bias inside the product, the runtime has an integer kernel for both; apart it has none.

    Any other Add behind a MatMul the runtime would fuse into a float Gemm; behind a Gemm it stays.
    """
    weight = sizes(node.inputs[1])
    add = only_use(node.outputs[0])
    if add is None or add.op_type != "Add" or weight is None or len(weight) != 2:
        return
    if known_rank(node.inputs[0]) != 2 or not is_constant(node.inputs[1]) or not is_float(node.outputs[0]):
        return
    bias = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
    array = constant(bias)
    output = ir.Value()
    if array is None or array.size != weight[1] or array.shape[-1:] != (weight[1],) or array.ndim > 2:
        add_node(graph, "Gemm", list(node.inputs[:2]), [output], name=node.name or "")
        take_output(output, node.outputs[0])
        graph.remove(node, safe=True)
        return
    if array.ndim == 2:
        bias = add_initializer(graph, names.fresh(f"{node.name}_bias"), array.reshape(-1))
    add_node(graph, "Gemm", [node.inputs[0], node.inputs[1], bias], [output], name=node.name or "")
    take_output(output, add.outputs[0])
    graph.remove([add, node], safe=True)


def _pool_from_mean(graph: ir.Graph, node: ir.Node, names: Names) -> None:
    """A pool has an integer kernel; in float it is as fast, and faster where the runtime has the channels last, as behind integer Convs."""
    x = node.inputs[0]
    if (
        x is None
        or known_rank(x) != 4
        or not is_float(x)
        or sorted(axis % 4 for axis in reduced_axes(node)) != [2, 3]
    ):
        return
    flat, output = not attribute(node, "keepdims", 1), ir.Value()
    pooled = ir.Value(name=names.fresh(f"{node.outputs[0].name}_pooled"), type=x.type) if flat else output
    add_node(graph, "GlobalAveragePool", [x], [pooled], name=node.name or "")
    if flat:
        add_node(graph, "Flatten", [pooled], [output], name=names.fresh(f"{node.name}_flat"), axis=1)
    take_output(output, node.outputs[0])
    graph.remove(node, safe=True)
