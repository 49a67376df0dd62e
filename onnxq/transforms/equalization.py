"""Cross-layer equalization on a graph: balance the channel ranges between convolutions, free at run time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxq.calibration.collect import Divided
from onnxq.calibration.moments import LayerInput, Moments
from onnxq.graph.edit import (
    Names,
    add_initializer,
    attribute,
    constant,
    factor,
    input_at,
    is_constant,
    known_rank,
    only_use,
)
from onnxq.normalize.fold_forward import fold_into
from onnxq.plan.plan import Plan, PlannedNode
from onnxq.quantization.weights import layer_inputs, read_elsewhere
from onnxq.techniques.blockwise import Grid
from onnxq.techniques.equalization import equalizing_scales
from onnxq.transforms.algorithm import Transformed
from onnxq.types import Floats

HOMOGENEOUS = frozenset({"AveragePool", "LeakyRelu", "MaxPool", "PRelu", "Relu"})
"""Operators with f(s x) = s f(x), channel by channel, for s > 0."""


@dataclass(frozen=True)
class _Copy:
    """The copy that is being rewritten."""

    model: ir.Model
    nodes: Mapping[str | None, ir.Node]
    names: Names


def equalize(
    model: ir.Model, plan: Plan, moments: Mapping[LayerInput, Moments], _grid: Grid | None = None
) -> Transformed | None:
    """Return an equalized copy of a model; None where no pair of layers gains.

    Args:
        model: normalized model; it does not change.
        plan: plan of the quantized nodes.
        moments: moments of the layers' inputs.
        _grid: unused; equalization prepares for 8-bit activations.
    """
    layers, sources = layer_inputs(plan), set(plan.sources())
    clone, known = model.clone(), dict(moments)
    divided: dict[str, Divided] = {}
    copy = _Copy(clone, {node.name: node for node in clone.graph}, Names(clone))
    for tensor in plan.tensors.values():
        # a convolution, and the convolutions that use its result
        pair = _pair(model, plan, tensor.value)
        if pair is None:
            continue
        producer, consumers = pair
        inputs = _known_moments(consumers, layers, moments)
        scales = _scales(plan, tensor.value, consumers, inputs) if inputs else None
        if scales is None:
            continue
        # their weights, and the moments behind them
        renamed = _apply(copy, producer, consumers, scales)
        divided |= {new: Divided(old, scales) for old, new in renamed.items() if old in sources}
        for layer, each in inputs:
            known[replace(layer, tensor=renamed[tensor.name])] = each.divided(_spread(layer, scales))
    return Transformed(clone, known, divided) if divided else None


def _pair(model: ir.Model, plan: Plan, value: ir.Value) -> tuple[ir.Node, list[PlannedNode]] | None:
    """Return the convolution before a value and all consumers behind it, if they can be equalized."""
    producer = _producer(value)
    users = [plan.nodes.get(use.node.name or "") for use in value.uses()]
    if producer is None or not users or not all(_can_absorb(user, value) for user in users):
        return None
    consumers = [user for user in users if user is not None]
    for node in (producer, *(each.node for each in consumers)):
        if node.graph is not model.graph or read_elsewhere([node]):
            return None
    return producer, consumers


def _known_moments(
    consumers: Sequence[PlannedNode],
    layers: Mapping[str, LayerInput],
    moments: Mapping[LayerInput, Moments],
) -> list[tuple[LayerInput, Moments]]:
    """Return the consumers' inputs with their moments; nothing where any of them is unknown."""
    found = []
    for consumer in consumers:
        layer = layers.get(consumer.name)
        known = moments.get(layer) if layer is not None else None
        if layer is None or known is None or known.rows == 0:
            return []
        found.append((layer, known))
    return found


def _producer(value: ir.Value) -> ir.Node | None:
    """Return the Conv before a value if only homogeneous operators lie between and nothing else uses them."""
    node = None if value.is_graph_output() else value.producer()
    while (
        node is not None
        and node.op_type in HOMOGENEOUS
        and node.inputs[0] is not None
        and only_use(node.inputs[0]) is node
    ):
        if node.op_type == "PRelu" and not _one_slope_a_channel(node):
            return None
        node = node.inputs[0].producer()
    if node is None or node.op_type != "Conv":
        return None
    return node if all(value is None or is_constant(value) for value in node.inputs[1:]) else None


def _one_slope_a_channel(node: ir.Node) -> bool:
    slope, rank = constant(node.inputs[1]), known_rank(node.inputs[0])
    return slope is not None and (
        slope.size == 1
        or (rank is not None and slope.shape[1:] == (1,) * (rank - 2) and slope.ndim == rank - 1)
    )


def _can_absorb(planned: PlannedNode | None, value: ir.Value) -> bool:
    """Tell whether a consumer is a convolution whose weight can take the factors."""
    if planned is None or planned.node.op_type != "Conv" or planned.node.inputs[0] is not value:
        return False
    weight = constant(planned.node.inputs[1])
    groups = attribute(planned.node, "group", 1)
    return weight is not None and (groups == 1 or weight.shape[1] == 1)


def _by_channel(layer: LayerInput, values: Floats) -> Floats:
    """Reshape [groups, size] in kernel order to [kernel elements, channels]."""
    inside = layer.size // int(np.prod(layer.kernel.shape)) if layer.kernel is not None else layer.size
    return np.asarray(
        values.reshape(layer.groups, -1, inside).transpose(1, 0, 2).reshape(-1, layer.groups * inside)
    )


def _spread(layer: LayerInput, scales: Floats) -> Floats:
    """Repeat factors [channels] to [groups, size] in kernel order."""
    elements = int(np.prod(layer.kernel.shape)) if layer.kernel is not None else 1
    return np.repeat(scales.reshape(layer.groups, 1, -1), elements, axis=1).reshape(layer.groups, layer.size)


def _ranges(plan: Plan, value: ir.Value, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Return the ranges [tensors, C] of a value and of the integer values before it.

    Args:
        plan: plan of the quantized nodes.
        value: the value.
        low: its minimum, [C].
        high: its maximum, [C].
    """
    found, node = [(low, high)], value.producer()
    while node is not None and node.op_type in HOMOGENEOUS and node.inputs[0] is not None:
        slope = _slope(node)
        if slope is not None:  # in front of it, negative values are larger
            inverse = 1 / np.where(slope == 0, np.inf, slope)
            low, high = np.minimum(low * np.maximum(inverse, 0), high * np.minimum(inverse, 0)), high
        if node.inputs[0].name in plan.tensors:
            found.append((low, high))
        node = node.inputs[0].producer()
    return np.stack([each for each, _ in found]), np.stack([each for _, each in found])


def _slope(node: ir.Node) -> Floats | None:
    """Return the slope of a LeakyRelu, or the slopes of a PRelu's channels; None for other operators."""
    if node.op_type == "LeakyRelu":
        return np.array([factor(node, "alpha", 0.01)], np.float32)
    slope = constant(input_at(node, 1)) if node.op_type == "PRelu" else None
    return None if slope is None else slope.reshape(-1).astype(np.float32)


def _scales(
    plan: Plan, value: ir.Value, consumers: list[PlannedNode], inputs: list[tuple[LayerInput, Moments]]
) -> Floats | None:
    """Return the equalizing scales [channels] of a value; None where nothing gains."""
    # ranges of the value
    low = np.min([_by_channel(layer, each.low).min(axis=0) for layer, each in inputs], axis=0)
    high = np.max([_by_channel(layer, each.high).max(axis=0) for layer, each in inputs], axis=0)
    power = np.mean([_by_channel(layer, each.power()).mean(axis=0) for layer, each in inputs], axis=0)
    # weights that mix channels, and depthwise weights
    mixing, separate = [np.zeros((0, len(low)))], [np.zeros((0, len(low)))]
    for planned in consumers:
        weight = constant(planned.node.inputs[1])
        assert weight is not None
        if attribute(planned.node, "group", 1) == 1:
            mixing.append(np.moveaxis(weight, 1, -1).reshape(-1, weight.shape[1]))
        else:
            per_channel = len(weight) // len(low)
            separate.append(
                weight.reshape(len(low), per_channel, -1).transpose(1, 2, 0).reshape(-1, len(low))
            )
    return equalizing_scales(
        *_ranges(plan, value, low, high), power, np.concatenate(mixing), np.concatenate(separate)
    )


def _apply(copy: _Copy, producer: ir.Node, consumers: list[PlannedNode], scales: Floats) -> dict[str, str]:
    """Divide the producer's weights, multiply the consumers'; return new names of the values between."""
    graph, nodes, names = copy.model.graph, copy.nodes, copy.names
    conv = nodes[producer.name]
    for index in (1, 2):
        value = input_at(conv, index)
        array = constant(value)
        if array is not None and value is not None:
            divided = (array / scales.reshape(-1, *[1] * (array.ndim - 1))).astype(np.float32)
            conv.replace_input_with(index, add_initializer(graph, names.fresh(f"{value.name}_eq"), divided))
    for planned in consumers:
        fold_into(graph, nodes[planned.name], scales, np.zeros_like(scales), names)
    renamed: dict[str, str] = {}
    node, value = None, nodes[consumers[0].name].inputs[0]
    while node is not conv and value is not None:
        old = value.name or ""
        value.name = renamed[old] = names.fresh(f"{old}_eq")
        node = value.producer()
        value = node.inputs[0] if node is not None else None
    return renamed
