"""One canonical form for equivalent operators, so that the planner's table needs one row for them.

Max(x, c), Min(x, c), scalar c          -> Clip(x, c), Clip(x, , c)
Gemm with alpha or beta                 -> folded into constant weight and bias
Gemm with a C that is no bias vector    -> Gemm without C, then Add
MatMul(A, B), constant B [1, K, N]     -> MatMul(A, B) with B [K, N]
MatMul(A, B) of rank 2, then Add(bias)  -> Gemm(A, B, bias)
MatMul(A, B) of rank 2, then Add(other) -> Gemm(A, B), then Add
ReduceMean over the axes of an image    -> GlobalAveragePool, then Flatten where the axes go
Conv with several outputs per channel   -> Gather that repeats the channels, then depthwise Conv
PRelu with one slope                    -> LeakyRelu
Pow(x, 0.5)                             -> Sqrt(x)
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import (
    Names,
    add_initializer,
    add_node,
    attribute,
    constant,
    constant_value,
    factor,
    input_at,
    is_constant,
    is_float,
    known_rank,
    masks,
    only_use,
    reduced_axes,
    sizes,
    sort_nodes,
    take_output,
)
from onnxq.graph.fusions import rewrite_for_fusions
from onnxq.normalize.hard_activations import unify_activations

LEAST_CHANNELS = 16
"""Input channels from which copies of them take less time than the faster kernel saves."""
LANES = 4
"""The fast layout of convolutions takes channels whose number is a multiple of this."""


def canonicalize(model: ir.Model) -> bool:
    """Apply all rules to the main graph and the bodies, in place; return whether any applied."""
    names = Names(model)
    modified = unify_activations(model, names)
    modified |= rewrite_for_fusions(model, names)
    for graph in list(model.graphs()):
        for node in list(graph):
            if node.domain in ("", "ai.onnx"):
                for rule in _RULES.get(node.op_type, ()):
                    modified |= rule(graph, node, names)
    return sort_nodes(model) or modified


def _clip(graph: ir.Graph, node: ir.Node, names: Names) -> bool:
    if len(node.inputs) != 2 or not is_float(node.outputs[0]):
        return False
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
        return True
    return False


def _fold_gemm_factors(graph: ir.Graph, node: ir.Node, names: Names) -> bool:
    modified = False
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
        modified = True
    return modified


def _gemm_bias(graph: ir.Graph, node: ir.Node, names: Names) -> bool:
    """Turn a constant C of one value or one row into `[N]`, any other C into an Add."""
    c = input_at(node, 2)
    if c is None:
        return False
    weight = sizes(node.inputs[1])
    if weight is None:
        return False
    width = weight[0] if attribute(node, "transB", 0) else weight[1]
    array = constant(c)
    if array is not None and (array.size == 1 or (array.size == width and array.shape[-1] == width)):
        if array.shape == (width,):
            return False
        row = np.broadcast_to(array.reshape(-1), (width,)).copy()
        node.replace_input_with(2, add_initializer(graph, names.fresh(f"{c.name}_row"), row))
        return True
    if attribute(node, "beta", 1.0) != 1.0:
        return False
    old = node.outputs[0]
    product = ir.Value(name=names.fresh(f"{old.name}_product"), type=old.type, shape=old.shape)
    kept = {key: value for key, value in node.attributes.items() if key != "beta"}
    graph.append(ir.Node("", "Gemm", node.inputs[:2], list(kept.values()), outputs=[product], name=node.name))
    output = ir.Value()
    add_node(graph, "Add", [product, c], [output], name=names.fresh(f"{node.name}_add"))
    take_output(output, old)
    graph.remove(node, safe=True)
    return True


def _matrix_weight(graph: ir.Graph, node: ir.Node, names: Names) -> bool:
    """Remove the axes of size 1 in front of a constant weight, for all MatMuls that read it."""
    weight = node.inputs[1]
    shape = sizes(weight)
    if weight is None or shape is None or len(shape) < 3 or set(shape[:-2]) != {1} or not is_constant(weight):
        return False
    takers = [
        use.node
        for use in weight.uses()
        if use.idx == 1
        and use.node.op_type == "MatMul"
        and use.node.domain in ("", "ai.onnx")
        and (known_rank(use.node.inputs[0]) or 0) >= len(shape)
    ]
    array = constant(weight) if node in takers else None
    if array is None:
        return False
    matrix = constant_value(array.reshape(shape[-2:]), names.fresh(f"{weight.name}_matrix"))
    (weight.graph or graph).register_initializer(matrix)
    for taker in takers:
        taker.replace_input_with(1, matrix)
    return True


def _gemm_from_matmul(graph: ir.Graph, node: ir.Node, names: Names) -> bool:
    """Turn a MatMul with an Add behind it into a Gemm.

    The runtime has an integer kernel for a Gemm with a bias, but none for MatMul and Add. It would fuse any
    other Add behind a MatMul into a float Gemm; behind a Gemm the Add stays.
    """
    weight = sizes(node.inputs[1])
    add = only_use(node.outputs[0])
    if add is None or add.op_type != "Add" or weight is None or len(weight) != 2:
        return False
    if known_rank(node.inputs[0]) != 2 or not is_constant(node.inputs[1]) or not is_float(node.outputs[0]):
        return False
    bias = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
    array = constant(bias)
    output = ir.Value()
    fits = array is not None and array.shape[-1:] == (weight[1],) and array.size == weight[1]
    if array is None or not fits or array.ndim > 2 or masks(array):
        add_node(graph, "Gemm", list(node.inputs[:2]), [output], name=node.name or "")
        take_output(output, node.outputs[0])
        graph.remove(node, safe=True)
        return True
    if array.ndim == 2:
        bias = add_initializer(graph, names.fresh(f"{node.name}_bias"), array.reshape(-1))
    add_node(graph, "Gemm", [node.inputs[0], node.inputs[1], bias], [output], name=node.name or "")
    take_output(output, add.outputs[0])
    graph.remove([add, node], safe=True)
    return True


def _pool_from_mean(graph: ir.Graph, node: ir.Node, names: Names) -> bool:
    """Turn a mean over an image into a GlobalAveragePool, which has an integer kernel.

    In float the pool is as fast, and faster with the channels last, as behind integer Convs.
    """
    x = node.inputs[0]
    if (
        x is None
        or known_rank(x) != 4
        or not is_float(x)
        or sorted(axis % 4 for axis in reduced_axes(node)) != [2, 3]
    ):
        return False
    flat, output = not attribute(node, "keepdims", 1), ir.Value()
    pooled = ir.Value(name=names.fresh(f"{node.outputs[0].name}_pooled"), type=x.type) if flat else output
    add_node(graph, "GlobalAveragePool", [x], [pooled], name=node.name or "")
    if flat:
        add_node(graph, "Flatten", [pooled], [output], name=names.fresh(f"{node.name}_flat"), axis=1)
    take_output(output, node.outputs[0])
    graph.remove(node, safe=True)
    return True


def _repeat_channels(graph: ir.Graph, node: ir.Node, names: Names) -> bool:
    """Repeat each channel instead of computing several outputs of it.

    The runtime's fast depthwise kernels, float and integer, give one output for each channel.
    """
    x, shape, groups = node.inputs[0], sizes(node.inputs[1]), attribute(node, "group", 1)
    if x is None or shape is None or len(shape) != 4 or shape[1] != 1 or not is_float(x):
        return False
    assert isinstance(groups, int)
    if groups < LEAST_CHANNELS or shape[0] == groups or shape[0] % LANES:
        return False
    numbers = np.repeat(np.arange(groups, dtype=np.int64), shape[0] // groups)
    indices = add_initializer(graph, names.fresh(f"{node.name}_channels"), numbers)
    repeated = ir.Value(name=names.fresh(f"{x.name}_repeated"), type=x.type)
    if x.shape is not None:
        repeated.shape = ir.Shape([*x.shape[:1], shape[0], *x.shape[2:]])
    gather = names.fresh(f"{node.name}_repeat")
    add_node(graph, "Gather", [x, indices], [repeated], name=gather, axis=1)
    node.replace_input_with(0, repeated)
    node.attributes["group"] = ir.AttrInt64("group", shape[0])
    return True


def _leaky_relu(graph: ir.Graph, node: ir.Node, _: Names) -> bool:
    """Turn a PRelu with one slope for all channels into a LeakyRelu, which has an integer kernel."""
    x, slope = node.inputs[0], constant(node.inputs[1])
    if x is None or slope is None or not is_float(x) or slope.size == 0 or np.any(slope != slope.flat[0]):
        return False
    if (known_rank(x) or 0) < slope.ndim:
        return False
    output, alpha = ir.Value(), float(slope.flat[0])
    add_node(graph, "LeakyRelu", [x], [output], name=node.name or "", alpha=alpha)
    take_output(output, node.outputs[0])
    graph.remove(node, safe=True)
    return True


def _square_root(graph: ir.Graph, node: ir.Node, _: Names) -> bool:
    """Turn a power of a half into a square root, which takes a twentieth of the time."""
    x, exponent = node.inputs[0], constant(node.inputs[1])
    if x is None or exponent is None or not is_float(x) or exponent.size != 1 or exponent.flat[0] != 0.5:
        return False
    if (known_rank(x) or 0) < exponent.ndim:
        return False
    output = ir.Value()
    add_node(graph, "Sqrt", [x], [output], name=node.name or "")
    take_output(output, node.outputs[0])
    graph.remove(node, safe=True)
    return True


Rule = Callable[[ir.Graph, ir.Node, Names], bool]
"""Rewrites a node, in place, where the rule applies; returns whether it did."""

_RULES: dict[str, tuple[Rule, ...]] = {
    "Conv": (_repeat_channels,),
    "Max": (_clip,),
    "Min": (_clip,),
    "Gemm": (_fold_gemm_factors, _gemm_bias),  # a C with a factor would stay
    "MatMul": (_matrix_weight, _gemm_from_matmul),
    "PRelu": (_leaky_relu,),
    "Pow": (_square_root,),
    "ReduceMean": (_pool_from_mean,),
}
"""Rules by operator, in order."""
