"""From ranges and weights to scales, zero points and stored integers: the numbers of a plan."""

from dataclasses import dataclass, field

import numpy as np

from onnxq.arithmetic import (
    asymmetric_params,
    bias_params,
    clamped_params,
    quantize,
    quantize_bias,
    smallest_weight_scale,
    symmetric_scale,
)
from onnxq.calibration.methods import MethodOptions, Range, choose_range
from onnxq.calibration.statistics import Statistics
from onnxq.errors import DataError
from onnxq.model.edit import attribute, constant, input_at
from onnxq.options import Method, Target
from onnxq.plan import Plan, PlannedNode, PlannedTensor
from onnxq.schemes import INT8, Array, Floats, Integers, QuantParams
from onnxq.techniques.saturation import kernel_order, original_order, pair_safe_scales, round_pair_safe


@dataclass(frozen=True)
class QuantizedConstant:
    """Stored integers and their parameters."""

    stored: Integers
    params: QuantParams


@dataclass(frozen=True)
class WeightOptions:
    """How weights are quantized: one scale a channel or one a tensor, and for which CPUs."""

    per_channel: bool = True
    target: Target = Target.PORTABLE


@dataclass
class Parameters:
    """All numbers of a plan.

    activations  by name of the source tensor
    constants    weights, biases and constant operands, by (node name, input index)
    ranges       the clip range chosen for each source tensor
    """

    activations: dict[str, QuantParams] = field(default_factory=dict)
    constants: dict[tuple[str, int], QuantizedConstant] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)


def activation_parameters(
    plan: Plan, statistics: Statistics, methods: dict[str, Method], default: Method, options: MethodOptions
) -> Parameters:
    """Parameters with the activations filled in; `methods` overrides the method tensor by tensor.

    Raises:
        DataError: the statistics lack a planned tensor.
    """
    parameters = Parameters()
    for tensor in plan.tensors.values():
        if tensor.source != tensor.name:
            continue
        found = _range(tensor, statistics, methods.get(tensor.name, default), options)
        parameters.ranges[tensor.name] = found
        inside = clamped_params(*found, tensor.bounds) if tensor.bounds is not None else None
        parameters.activations[tensor.name] = inside or asymmetric_params(*found)
    return parameters


def _range(tensor: PlannedTensor, statistics: Statistics, method: Method, options: MethodOptions) -> Range:
    if tensor.known is not None:
        return tensor.known
    sketch = statistics.sketches.get(tensor.name)
    if sketch is None:
        raise DataError(f"the statistics lack tensor '{tensor.name}': they come from other options, calibrate again")
    if sketch.batches == 0:
        return 0.0, 0.0
    return choose_range(sketch, method, options)


def fill_constants(plan: Plan, parameters: Parameters, options: WeightOptions) -> None:
    """Quantize the weights, biases and constant operands of the planned nodes, in place."""
    for planned in plan.nodes.values():
        if planned.row.weight is not None:
            _quantize_weight(plan, planned, parameters, options)
        for index in planned.constants:
            array = constant(planned.node.inputs[index])
            assert array is not None
            params = asymmetric_params(float(array.min()), float(array.max()))
            parameters.constants[planned.name, index] = QuantizedConstant(quantize(array, params), params)


def channel_axis(planned: PlannedNode) -> int:
    """The axis of the weight that numbers output channels."""
    transposed = planned.node.op_type == "Gemm" and attribute(planned.node, "transB", 0)
    return 0 if transposed else planned.row.channel_axis


def can_saturate(planned: PlannedNode, weight: Array) -> bool:
    """Whether the pair rule matters: depthwise kernels multiply without adding pairs."""
    if planned.node.op_type != "Conv":
        return True
    group = attribute(planned.node, "group", 1)
    return not (weight.shape[1] == 1 and weight.shape[0] == group)


def _quantize_weight(plan: Plan, planned: PlannedNode, parameters: Parameters, options: WeightOptions) -> None:
    assert planned.row.weight is not None
    weight = constant(planned.node.inputs[planned.row.weight])
    assert weight is not None
    axis = channel_axis(planned)
    rows = kernel_order(weight, axis).astype(np.float32)
    bias_value = input_at(planned.node, planned.row.bias)
    bias = constant(bias_value)
    source = plan.tensors[planned.node.inputs[planned.activations[0]].name or ""].source  # type: ignore[union-attr]
    input_scale = parameters.activations[source].scale
    safe = options.target is Target.PORTABLE and can_saturate(planned, weight)
    scales = weight_scales(rows, bias, input_scale, per_channel=options.per_channel, pair_safe=safe)
    stored = round_pair_safe(rows, scales) if safe else _round(rows, scales)
    params = _weight_params(scales, axis, per_channel=options.per_channel)
    parameters.constants[planned.name, planned.row.weight] = QuantizedConstant(original_order(stored, weight.shape, axis), params)
    if bias is not None and planned.row.bias is not None:
        bias_kind = bias_params(input_scale, params.scale)
        parameters.constants[planned.name, planned.row.bias] = QuantizedConstant(quantize_bias(bias, bias_kind), bias_kind)


def weight_scales(rows: Floats, bias: Array | None, input_scale: Floats, *, per_channel: bool, pair_safe: bool) -> Floats:
    """Scales [channels] of a weight in kernel order; all equal where they are per tensor.

    A channel of zeros takes a scale with which its bias keeps 20 bits.
    """
    largest = np.abs(rows).max(axis=1) if rows.shape[1] else np.zeros(len(rows), np.float32)
    scales = symmetric_scale(largest if per_channel else np.full_like(largest, largest.max(initial=0)))
    if pair_safe:
        scales = pair_safe_scales(rows, scales)
    if bias is not None:
        empty = (largest == 0) & (bias != 0) if per_channel else np.full(len(rows), largest.max(initial=0) == 0)
        fine = symmetric_scale(np.abs(bias) / (2.0**20 * float(input_scale)) * INT8.high)
        scales = np.where(empty, fine, scales)
        scales = np.maximum(scales, smallest_weight_scale(bias, input_scale))
    return scales.astype(np.float32) if per_channel else np.full(len(scales), scales.max(initial=0) or 1.0, np.float32)


def _round(rows: Floats, scales: Floats) -> Integers:
    stored: Integers = np.clip(np.rint(rows / scales[:, None]), INT8.low, INT8.high).astype(np.int8)
    return stored


def _weight_params(scales: Floats, axis: int, *, per_channel: bool) -> QuantParams:
    if per_channel:
        return QuantParams(INT8, scales, np.zeros(scales.shape, np.int8), axis)
    return QuantParams(INT8, scales[0].reshape(()), np.array(0, np.int8))
