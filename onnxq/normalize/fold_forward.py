"""Fold per-channel arithmetic into the convolutions that follow it.

    Conv(a x + d, W, b) = Conv(x, W a, b + sum W d)

The shift is folded only into convolutions without padding: a padded zero is not shifted. In front of a padded
convolution a x + d becomes a (x + d / a), and the factor is folded.
"""

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import (
    Names,
    add_initializer,
    add_node,
    attribute,
    constant,
    input_at,
    is_float,
    known_rank,
    only_use,
    sizes,
    take_output,
)
from onnxq.graph.fusions import ends_gelu
from onnxq.normalize.fold_backward import channel_affine
from onnxq.types import Array

ARITHMETIC = frozenset({"Mul", "Div", "Add", "Sub", "BatchNormalization"})


def fold_forward(model: ir.Model) -> bool:
    """Fold per-channel arithmetic, in place, last nodes first so that chains vanish; return whether any."""
    names, modified = Names(model), False
    for graph in model.graphs():
        for node in reversed(list(graph)):
            if node.op_type in ARITHMETIC and node.domain in ("", "ai.onnx") and node.graph is graph:
                modified |= _fold(graph, node, names)
    return modified


def _fold(graph: ir.Graph, node: ir.Node, names: Names) -> bool:
    output = node.outputs[0]
    takers = [use.node for use in output.uses()]
    if (
        not takers
        or output.is_graph_output()
        or ends_gelu(node)
        or not all(_is_foldable(taker, output) for taker in takers)
    ):
        return False
    found = _affine(node)
    if found is None:
        return False
    x, gain, shift = found
    if not all(_stays_finite(taker, gain, shift) for taker in takers):
        return False
    padded = any(_is_padded(taker) for taker in takers)
    if shift.any() and padded:
        return _swap(graph, node, x, names)
    for taker in takers:
        fold_into(graph, taker, gain, shift, names)
        taker.replace_input_with(0, x)
    graph.remove(node, safe=True)
    return True


def _affine(node: ir.Node) -> tuple[ir.Value, Array, Array] | None:
    """Return (x, factor, shift), the latter float64 `[channels]`, if a node maps x to factor x + shift."""
    for value in node.inputs[:2] if node.op_type != "BatchNormalization" else node.inputs[:1]:
        shape, rank = _channels(value), known_rank(value)
        if value is None or shape is None or rank is None or constant(value) is not None:
            continue
        found = channel_affine(node, value, shape, rank)
        if found is not None and np.all(found[0] != 0) and np.isfinite(found[0]).all():
            return value, *found
    return None


def _channels(value: ir.Value | None) -> int | None:
    """Return the size of axis 1, None if unknown."""
    if value is None or value.shape is None or len(value.shape) < 2:
        return None
    size = value.shape[1]
    return size if isinstance(size, int) else None


def _is_foldable(node: ir.Node, value: ir.Value) -> bool:
    """Whether a node is a convolution of `value` with constant weight and bias."""
    if node.op_type != "Conv" or node.domain not in ("", "ai.onnx") or node.inputs[0] is not value:
        return False
    bias = input_at(node, 2)
    return (
        is_float(node.inputs[1])
        and sizes(node.inputs[1]) is not None
        and constant(node.inputs[1]) is not None
        and (bias is None or constant(bias) is not None)
    )


def _stays_finite(conv: ir.Node, gain: Array, shift: Array) -> bool:
    """Whether a convolution's weight and bias stay float32 numbers with the factor and shift."""
    weight = constant(conv.inputs[1])
    assert weight is not None
    largest = float(np.abs(weight).max(initial=0)) * max(1.0, float(np.abs(gain).max()))
    sums = largest * float(np.abs(shift).max()) * weight[0].size
    return bool(max(largest, sums) < np.finfo(np.float32).max)


def _is_padded(node: ir.Node) -> bool:
    pads = attribute(node, "pads", [0])
    assert isinstance(pads, list)
    return any(pads) or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")


def _swap(graph: ir.Graph, node: ir.Node, x: ir.Value, names: Names) -> bool:
    """Turn a Mul and the Add behind it, x = a z, x + d, into a (z + d / a), and fold the factor."""
    before = x.producer()
    if node.op_type != "Add" or before is None or before.op_type != "Mul" or only_use(x) is not node:
        return False
    inner, outer = _affine(before), _affine(node)
    if inner is None or outer is None or inner[2].any() or bool((np.asarray(outer[1]) != 1).any()):
        return False
    z, gain, shift = inner[0], inner[1], outer[2]
    rank = known_rank(z) or 0
    moved = (shift / gain).astype(np.float32).reshape(1, -1, *[1] * (rank - 2))
    if np.all(moved == moved.flat[0]):
        moved = moved.reshape(-1)[:1].reshape(())
    takers = [use.node for use in node.outputs[0].uses()]
    for taker in takers:
        fold_into(graph, taker, gain, np.zeros_like(shift), names)
    output, constant_shift = ir.Value(), add_initializer(graph, names.fresh(f"{node.name}_shift"), moved)
    add_node(graph, "Add", [z, constant_shift], [output], name=names.fresh(f"{node.name}_moved"))
    take_output(output, node.outputs[0])
    graph.remove([node, before], safe=True)
    return True


def fold_into(graph: ir.Graph, conv: ir.Node, gain: Array, shift: Array, names: Names) -> None:
    """Fold gain x + shift, both `[channels]`, into the weight and bias of a convolution of x."""
    original, bias = conv.inputs[1], input_at(conv, 2)
    weight = constant(original)
    assert weight is not None
    assert original is not None
    groups = attribute(conv, "group", 1)
    assert isinstance(groups, int)
    channels, inside = weight.shape[0], weight.shape[1]
    # the input channels that each output channel reads, [channels, C / group]
    first = (np.arange(channels) // (channels // groups) * inside)[:, None] + np.arange(inside)
    factors = gain[first].reshape(channels, inside, *[1] * (weight.ndim - 2))
    scaled = (weight * factors).astype(np.float32)
    conv.replace_input_with(1, add_initializer(graph, names.fresh(f"{original.name}_folded"), scaled))
    if not shift.any():
        return
    kernel_sums = weight.astype(np.float64).reshape(channels, inside, -1).sum(axis=2)
    old = constant(bias)
    total = (0.0 if old is None else old.astype(np.float64)) + (kernel_sums * shift[first]).sum(axis=1)
    if len(conv.inputs) < 3:
        conv.resize_inputs(3)
    name = bias.name if bias is not None else f"{conv.name}_bias"
    conv.replace_input_with(
        2, add_initializer(graph, names.fresh(f"{name}_folded"), total.astype(np.float32))
    )
