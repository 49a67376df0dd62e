"""Fold per-channel arithmetic into the Conv or Gemm that precedes it.

    Conv(x, W, b) -> BatchNormalization | Mul(c) | Div(c) | Add(c) | Sub(c)
    = Conv(x, a W, a b + d)   with a, d per output channel

The new weights are computed in float64, so that the folded model is as exact as the original one.
"""

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import (
    Names,
    add_initializer,
    attribute,
    constant,
    factor,
    input_at,
    is_float,
    known_rank,
    masks,
    only_use,
)
from onnxq.types import Array


def fold_channel_arithmetic(model: ir.Model) -> bool:
    """Fold chains of per-channel arithmetic, in place; return whether any node was folded."""
    names, modified = Names(model), False
    for graph in model.graphs():
        for node in list(graph):
            if node.domain not in ("", "ai.onnx") or node.op_type not in ("Conv", "Gemm"):
                continue
            while _fold_next(graph, node, names):
                modified = True
    return modified


def _fold_next(graph: ir.Graph, node: ir.Node, names: Names) -> bool:
    weight_value = node.inputs[1]
    output = node.outputs[0]
    follower = only_use(output)
    if follower is None or weight_value is None or not is_float(weight_value):
        return False
    bias_value = input_at(node, 2)
    if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return False
    channel_axis = 1 if node.op_type == "Gemm" and not attribute(node, "transB", 0) else 0
    rank = known_rank(output) or known_rank(weight_value)
    weight, bias = constant(weight_value), constant(bias_value)
    if weight is None or rank is None or (bias_value is not None and bias is None):
        return False
    channels = weight.shape[channel_axis]
    affine = channel_affine(follower, output, channels, rank)
    if affine is None or (bias is not None and bias.shape != (channels,)):
        return False
    gain, shift = affine
    shape = [1] * weight.ndim
    shape[channel_axis] = channels
    with np.errstate(over="ignore", invalid="ignore"):
        new_weight = (weight * gain.reshape(shape)).astype(np.float32)
        new_bias = ((0.0 if bias is None else bias * gain) + shift).astype(np.float32)
    if masks(new_weight) or masks(new_bias):
        return False
    base = weight_value.name or "weight"
    node.replace_input_with(1, add_initializer(graph, names.fresh(f"{base}_folded"), new_weight))
    bias_name = bias_value.name if bias_value is not None else f"{node.name}_bias"
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, add_initializer(graph, names.fresh(f"{bias_name}_folded"), new_bias))
    _absorb(graph, node, follower)
    return True


def _absorb(graph: ir.Graph, node: ir.Node, follower: ir.Node) -> None:
    """Replace the output of `follower` by that of `node`, under the follower's name."""
    old, new = node.outputs[0], follower.outputs[0]
    name = new.name
    ir.convenience.replace_all_uses_with(new, old, replace_graph_outputs=True)
    graph.remove(follower, safe=True)
    new.name = None
    old.name = name


def channel_affine(node: ir.Node, x: ir.Value, channels: int, rank: int) -> tuple[Array, Array] | None:
    """Return (factor, shift), float64 `[channels]`, if `node` maps x to factor * x + shift."""
    ones, zeros = np.ones(channels), np.zeros(channels)
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "BatchNormalization":
        return _batch_norm(node, channels)
    if node.op_type not in ("Mul", "Div", "Add", "Sub") or len(node.inputs) != 2:
        return None
    first = node.inputs[0] is x
    other = node.inputs[1] if first else node.inputs[0]
    vector = _per_channel(constant(other), channels, rank)
    if other is x or vector is None:
        return None
    match node.op_type, first:
        case "Mul", _:
            return vector * ones, zeros
        case "Add", _:
            return ones, vector * ones
        case "Sub", True:
            return ones, -vector * ones
        case "Sub", False:
            return -ones, vector * ones
        case "Div", True if np.all(vector != 0):
            return ones / vector, zeros
    return None


def _per_channel(array: Array | None, channels: int, rank: int) -> Array | None:
    """Return a constant that broadcasts along axis 1 only, as `[channels]` or `[1]`; else None."""
    if array is None or array.ndim > rank or array.dtype != np.float32:
        return None
    if array.size == 1:
        return array.reshape(1).astype(np.float64)
    shape = (1,) * (rank - array.ndim) + array.shape
    expected = (1, channels) + (1,) * (rank - 2)
    return array.reshape(-1).astype(np.float64) if shape == expected else None


def _batch_norm(node: ir.Node, channels: int) -> tuple[Array, Array] | None:
    """Return factor and shift; None if it trains, or has a value of its own for each pixel (opset 7, 8)."""
    if attribute(node, "training_mode", 0) or any(
        value.uses() or value.is_graph_output() for value in node.outputs[1:]
    ):
        return None
    values = [constant(value) for value in node.inputs[1:5]]
    if len(values) != 4 or any(value is None or value.shape != (channels,) for value in values):
        return None
    scale, bias, mean, variance = (np.asarray(value, np.float64) for value in values)
    if not (variance + factor(node, "epsilon", 1e-5) > 0).all():
        return None  # the node itself gives NaN or infinite values
    gain = scale / np.sqrt(variance + factor(node, "epsilon", 1e-5))
    return gain, bias - mean * gain
