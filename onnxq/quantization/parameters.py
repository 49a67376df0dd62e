"""Parameters of a plan: scales, zero points and stored integers, from ranges and quantized weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxq.calibration.methods import MethodOptions, Range, choose_range
from onnxq.calibration.statistics import Statistics
from onnxq.errors import DataError
from onnxq.graph.edit import constant, input_at
from onnxq.plan.effective_range import effective_range
from onnxq.plan.plan import Plan, PlannedNode, PlannedTensor
from onnxq.plan.products import channel_axis, following_bias
from onnxq.quantization.weights import QuantizedWeight
from onnxq.techniques.arithmetic import (
    bias_params,
    clamped_params,
    quantize,
    quantize_bias,
    ramp_params,
    ramp_result,
    range_params,
)
from onnxq.types import INT8, Array, Floats, Integers, IntegerType, QuantParams

Place = tuple[str, int]
"""(node name, input index)."""


@dataclass(frozen=True)
class QuantizedConstant:
    """Stored integers and their parameters."""

    stored: Integers
    params: QuantParams


@dataclass
class Parameters:
    """All parameters of a plan.

    activations  by name of the source tensor
    constants    weights, biases and constant operands
    replaced     float constants that include a bias correction
    """

    activations: dict[str, QuantParams] = field(default_factory=dict)
    constants: dict[Place, QuantizedConstant] = field(default_factory=dict)
    replaced: dict[Place, Array] = field(default_factory=dict)


Ranges = dict[tuple[str, str], Range]
"""Clipping ranges chosen so far, by tensor and method."""


def activation_parameters(
    plan: Plan, statistics: Statistics, method: str, options: MethodOptions, chosen: Ranges | None = None
) -> dict[str, QuantParams]:
    """Return the parameters of every source tensor, by name.

    Args:
        plan: the plan.
        statistics: sketches of its tensors.
        method: chooses the clipping ranges.
        options: settings of the method.
        chosen: ranges chosen before; new ones are added, so that no range is chosen twice.

    Raises:
        DataError: the statistics lack a planned tensor.
    """
    activations: dict[str, QuantParams] = {}
    chosen = {} if chosen is None else chosen
    ramps = {tensor.ramp.source: tensor.ramp for tensor in plan.tensors.values() if tensor.ramp is not None}
    for tensor in plan.tensors.values():
        if tensor.ramp is not None:
            activations[tensor.name] = ramp_result(
                activations[tensor.ramp.source], tensor.ramp.alpha, tensor.ramp.beta
            )
        elif tensor.source == tensor.name:
            if (tensor.name, method) not in chosen:
                chosen[tensor.name, method] = _range(plan, tensor, statistics, method, options)
            found = chosen[tensor.name, method]
            bounds = tensor.bounds
            inside = clamped_params(*found, bounds, options.type) if bounds is not None else None
            activations[tensor.name] = inside or range_params(*found, options.type)
            if tensor.name in ramps:
                activations[tensor.name] = ramp_params(
                    *found, ramps[tensor.name].alpha, ramps[tensor.name].beta
                )
    return activations


def _range(
    plan: Plan, tensor: PlannedTensor, statistics: Statistics, method: str, options: MethodOptions
) -> Range:
    """Return a tensor's clipping range: its known one, or the method's, within its effective range."""
    if tensor.known is not None:
        return tensor.known
    sketch = statistics.sketch(tensor.name)
    if sketch is None:
        raise DataError(
            f"the statistics lack tensor '{tensor.name}': they come from other options, calibrate again"
        )
    if sketch.batches == 0:
        return 0.0, 0.0
    bounds = effective_range(plan, tensor.value)
    return choose_range(sketch if bounds is None else sketch.within(*bounds), method, options)


def make_parameters(
    plan: Plan, activations: dict[str, QuantParams], weights: Mapping[str, QuantizedWeight]
) -> Parameters:
    """Return all parameters, from those of the activations and the quantized weights."""
    parameters = Parameters(activations)
    for planned in plan.nodes.values():
        if planned.row.weight is not None:
            _place_weight(plan, planned, weights[planned.name], parameters)
    for planned in plan.nodes.values():
        for index in planned.constants:
            place = planned.name, index
            array = parameters.replaced.get(place, constant(planned.node.inputs[index]))
            assert array is not None
            params = range_params(
                float(array.min()), float(array.max()), _type_beside(plan, planned, parameters)
            )
            parameters.constants[place] = QuantizedConstant(quantize(array, params), params)
    return parameters


def _type_beside(plan: Plan, planned: PlannedNode, parameters: Parameters) -> IntegerType:
    """Return the type of a node's activation, which its constant operands share."""
    activation = planned.node.inputs[planned.activations[0]]
    assert activation is not None
    return parameters.activations[plan.tensors[activation.name or ""].source].type


def _place_weight(plan: Plan, planned: PlannedNode, weight: QuantizedWeight, parameters: Parameters) -> None:
    """Add a node's weight and bias to the parameters."""
    assert planned.row.weight is not None
    activation = planned.node.inputs[planned.activations[0]]
    assert activation is not None
    params = _weight_params(weight.scales, channel_axis(planned))
    parameters.constants[planned.name, planned.row.weight] = QuantizedConstant(weight.stored, params)
    bias = constant(input_at(planned.node, planned.row.bias))
    if planned.row.bias is None:
        _correct_following(planned, weight, parameters)
    elif bias is not None or weight.shift is not None:
        total = (0.0 if bias is None else bias.astype(np.float64)) + (
            0.0 if weight.shift is None else weight.shift
        )
        if planned.run_time:  # its kernel takes the bias in float
            parameters.replaced[planned.name, planned.row.bias] = np.asarray(total, np.float32)
            return
        input_scale = parameters.activations[plan.tensors[activation.name or ""].source].scale
        kind = bias_params(input_scale, params.scale)
        parameters.constants[planned.name, planned.row.bias] = QuantizedConstant(
            quantize_bias(np.asarray(total), kind), kind
        )


def _correct_following(planned: PlannedNode, weight: QuantizedWeight, parameters: Parameters) -> None:
    """Add the bias correction to the constant of the Add behind a MatMul."""
    place = following_bias(planned) if weight.shift is not None else None
    if place is None or weight.shift is None:
        return
    node, index = place
    array = constant(node.inputs[index])
    assert array is not None
    parameters.replaced[node.name or "", index] = (array + weight.shift.reshape(array.shape)).astype(
        np.float32
    )


def _weight_params(scales: Floats, axis: int) -> QuantParams:
    """Return per-channel parameters, or per-tensor ones where all scales are equal."""
    if len(scales) > 1 and np.all(scales == scales[0]):
        return QuantParams(INT8, np.array(scales[0]), np.array(0, np.int8))
    return QuantParams(INT8, scales, np.zeros(scales.shape, np.int8), axis)
