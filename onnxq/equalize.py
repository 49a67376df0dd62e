"""Equalize the activations between convolutions, where that is expected to pay and costs nothing at run time."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxq.calibration.collect import Divided
from onnxq.calibration.moments import LayerInput, Moments
from onnxq.model.edit import Names, add_initializer, attribute, constant, input_at, only_use
from onnxq.model.fold_forward import fold_into
from onnxq.plan import Plan, PlannedNode
from onnxq.schemes import Floats
from onnxq.smooth import Changed
from onnxq.techniques.equalization import equalizing_scales
from onnxq.weights import layer_inputs, read_elsewhere


@dataclass(frozen=True)
class _Copy:
    model: ir.Model
    nodes: Mapping[str | None, ir.Node]
    names: Names


def equalize(model: ir.Model, plan: Plan, moments: Mapping[LayerInput, Moments]) -> Changed | None:
    """An equalized copy of a model; None where nothing is worth it.

    Args:
        model: normalized; it is left as it is.
        plan: what is to be quantized.
        moments: of the layers' inputs.
    """
    layers = layer_inputs(plan)
    clone, known, divided = model.clone(), dict(moments), {}
    copy = _Copy(clone, {node.name: node for node in clone.graph}, Names(clone))
    for tensor in plan.tensors.values():
        producer = _producer(plan, tensor.value)
        takers = [plan.nodes.get(use.node.name or "") for use in tensor.value.uses()]
        if producer is None or not takers or not all(_takes(taker, tensor.value) for taker in takers):
            continue
        if any(planned is None or planned.node.graph is not model.graph for planned in (producer, *takers)):
            continue
        consumers = [taker for taker in takers if taker is not None]
        if any(read_elsewhere(plan, [planned.name]) for planned in (producer, *consumers)):
            continue
        found = [(layers[taker.name], moments.get(layers[taker.name])) for taker in consumers if taker.name in layers]
        if len(found) < len(consumers) or any(one is None or one.rows == 0 for _, one in found):
            continue
        scales = _scales(consumers, [(layer, one) for layer, one in found if one is not None])
        if scales is None:
            continue
        changed = _apply(copy, producer, consumers, tensor.name, scales)
        divided[changed] = Divided(tensor.name, scales)
        for layer, one in found:
            if one is not None:
                known[replace(layer, tensor=changed)] = one.divided(_spread(layer, scales))
    return Changed(clone, known, divided) if divided else None


def _producer(plan: Plan, value: ir.Value) -> PlannedNode | None:
    """The planned Conv that a value comes from, with nothing but one Relu between, and nowhere else to go."""
    node = value.producer()
    if node is None or value.is_graph_output():
        return None
    if node.op_type == "Relu" and node.inputs[0] is not None and only_use(node.inputs[0]) is node:
        node = node.inputs[0].producer()
    planned = plan.nodes.get(node.name or "") if node is not None else None
    return planned if planned is not None and planned.node.op_type == "Conv" and planned.output is value else None


def _takes(planned: PlannedNode | None, value: ir.Value) -> bool:
    if planned is None or planned.node.op_type != "Conv" or planned.node.inputs[0] is not value:
        return False
    weight = constant(planned.node.inputs[1])
    groups = attribute(planned.node, "group", 1)
    return weight is not None and (groups == 1 or weight.shape[1] == 1)


def _by_channel(layer: LayerInput, values: Floats) -> Floats:
    """[groups, size] in kernel order as [kernel elements, channels]."""
    inside = layer.size // int(np.prod(layer.kernel.shape)) if layer.kernel is not None else layer.size
    return np.asarray(values.reshape(layer.groups, -1, inside).transpose(1, 0, 2).reshape(-1, layer.groups * inside))


def _spread(layer: LayerInput, scales: Floats) -> Floats:
    """Factors [channels] as [groups, size] in kernel order."""
    elements = int(np.prod(layer.kernel.shape)) if layer.kernel is not None else 1
    return np.repeat(scales.reshape(layer.groups, 1, -1), elements, axis=1).reshape(layer.groups, layer.size)


def _scales(consumers: list[PlannedNode], found: list[tuple[LayerInput, Moments]]) -> Floats | None:
    low = np.min([_by_channel(layer, one.low).min(axis=0) for layer, one in found], axis=0)
    high = np.max([_by_channel(layer, one.high).max(axis=0) for layer, one in found], axis=0)
    power = np.mean([_by_channel(layer, one.power()).mean(axis=0) for layer, one in found], axis=0)
    mixing, separate = [np.zeros((0, len(low)))], [np.zeros((0, len(low)))]
    for planned in consumers:
        weight = constant(planned.node.inputs[1])
        assert weight is not None
        if attribute(planned.node, "group", 1) == 1:
            mixing.append(np.moveaxis(weight, 1, -1).reshape(-1, weight.shape[1]))
        else:
            many = len(weight) // len(low)
            separate.append(weight.reshape(len(low), many, -1).transpose(1, 2, 0).reshape(-1, len(low)))
    return equalizing_scales(low, high, power, np.concatenate(mixing), np.concatenate(separate))


def _apply(copy: _Copy, producer: PlannedNode, consumers: list[PlannedNode], tensor: str, scales: Floats) -> str:
    """Divide what the producer gives, multiply the weights that take it; returns the value's new name."""
    graph, nodes, names = copy.model.graph, copy.nodes, copy.names
    conv = nodes[producer.name]
    for index in (1, 2):
        value = input_at(conv, index)
        array = constant(value)
        if array is not None and value is not None:
            divided = (array / scales.reshape(-1, *[1] * (array.ndim - 1))).astype(np.float32)
            conv.replace_input_with(index, add_initializer(graph, names.fresh(f"{value.name}_equalized"), divided))
    for planned in consumers:
        fold_into(graph, nodes[planned.name], scales, np.zeros_like(scales), names)
    value = nodes[consumers[0].name].inputs[0]
    assert value is not None
    value.name = names.fresh(f"{tensor}_equalized")
    if conv.outputs[0] is not value:
        conv.outputs[0].name = names.fresh(f"{conv.outputs[0].name}_equalized")
    return value.name
