"""Weights as stored integers: scales, rounding, and what rounding shifts the output by.

This is done once; the activations' ranges, of which several are tried, change only the biases.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from onnxq.calibration.moments import LayerInput, Moments, layer_input
from onnxq.graph.edit import attribute, constant, input_at, sizes
from onnxq.options import Target
from onnxq.plan.plan import Plan, PlannedNode
from onnxq.plan.products import channel_axis, has_bias
from onnxq.techniques.arithmetic import smallest_sum_scale, smallest_weight_scale, symmetric_scale
from onnxq.techniques.row_blocks import by_blocks
from onnxq.techniques.saturation import kernel_order, original_order, pair_safe_scales, round_pair_safe
from onnxq.types import INT8, Array, Floats, Integers


class RoundWeights(Protocol):
    """Signature of a rounding technique."""

    def __call__(self, rows: Floats, second: Any, scales: Floats, /, *, pair_safe: bool) -> Integers:
        """Round weights [groups, channels, K] to int8.

        Args:
            rows: the weights.
            second: second moments of the layer's input, [groups, K, K], which may be overwritten; None where the
                technique needs none.
            scales: [groups, channels].
            pair_safe: no two neighbouring products may saturate int16 (see `saturation`).
        """


ShiftOutput = Callable[[Floats, Integers, Floats, Floats], Floats]
"""(rows [channels, K], their integers, scales [channels], mean input [groups, K]) -> shift of the mean output [channels]."""


@dataclass(frozen=True)
class WeightOptions:
    """Options of weight quantization.

    per_channel    one scale per output channel, else one per tensor
    target         CPUs on which the kernels must not saturate
    round          rounding of the integers; to nearest where it is None
    needs_moments  `round` needs second moments of the layer's input; where they are unknown, it is not used
    shift          correction of the bias for the rounding's mean error; None for none
    """

    per_channel: bool = True
    target: Target = Target.PORTABLE
    round: RoundWeights | None = None
    needs_moments: bool = True
    shift: ShiftOutput | None = None


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight as integers.

    stored  in the weight's own shape
    scales  [channels]
    shift   [channels], to be added to the bias; None where nothing is known or no bias can take it
    """

    stored: Integers
    scales: Floats
    shift: Floats | None


@dataclass(frozen=True)
class Use:
    """A planned node that reads a weight, the least scale its activation may get, and the moments of that, where they are known."""

    planned: PlannedNode
    input_scale: np.float32
    moments: Moments | None


def layer_inputs(plan: Plan) -> dict[str, LayerInput]:
    """What each planned layer multiplies its weights with, by node name."""
    found = {}
    for name, planned in plan.nodes.items():
        if planned.row.weight is None:
            continue
        activation = planned.node.inputs[planned.activations[0]]
        layer = layer_input(planned.node, (activation.name if activation is not None else None) or "")
        if layer is not None:
            found[name] = layer
    return found


def quantize_weights(
    plan: Plan,
    input_scales: Mapping[str, float],
    moments: Mapping[LayerInput, Moments],
    options: WeightOptions,
    skip: frozenset[str] = frozenset(),
) -> dict[str, QuantizedWeight]:
    """All planned weights, by node name.

    Args:
        plan: what is quantized.
        input_scales: the least scale that each source tensor may get, for biases that would overflow.
        moments: of the layers' inputs, as far as they are known.
        options: how.
        skip: nodes that are not wanted.
    """
    inputs = layer_inputs(plan)
    result: dict[str, QuantizedWeight] = {}
    for names in sharing(plan):
        if skip.issuperset(names):
            continue
        uses = []
        for name in names:
            planned = plan.nodes[name]
            activation = planned.node.inputs[planned.activations[0]]
            source = plan.tensors[(activation.name if activation is not None else None) or ""].source
            known = moments.get(inputs[name]) if name in inputs else None
            uses.append(Use(planned, np.float32(input_scales[source]), known))
        result |= zip(names, quantize_weight(uses, options), strict=True)
    return result


def sharing(plan: Plan) -> list[list[str]]:
    """The names of the planned nodes with weights; those that read the same weight in the same way lie together."""
    found: dict[tuple[object, ...], list[str]] = {}
    for name, planned in plan.nodes.items():
        if planned.row.weight is not None:
            key = (
                planned.node.inputs[planned.row.weight],
                channel_axis(planned),
                attribute(planned.node, "group", 1),
            )
            found.setdefault(key, []).append(name)
    return list(found.values())


def read_elsewhere(nodes: Collection[ir.Node]) -> bool:
    """Whether others than these nodes read their weights, so that a change for these would need copies."""
    return any(
        use.node not in nodes
        for node in nodes
        for value in node.inputs[1:2]
        if value is not None
        for use in value.uses()
    )


def quantize_weight(
    uses: Sequence[Use], options: WeightOptions, *, always_shift: bool = False
) -> list[QuantizedWeight]:
    """One weight, for all planned nodes that read it: the same integers and scales, and the shift of each.

    Args:
        uses: who reads it.
        options: how.
        always_shift: where something takes what rounding shifts the output by, bias or not.
    """
    first = uses[0].planned
    weight = first.node.inputs[1]
    shape, axis = tuple(sizes(weight) or ()), channel_axis(first)
    array = constant(weight)
    assert array is not None
    rows = kernel_order(array, axis).astype(np.float32, copy=False)
    del array  # of the largest weights one copy is enough
    safe = options.target is Target.PORTABLE and _can_saturate(first, shape)
    scales = weight_scales(rows, _bias_steps(uses), per_channel=options.per_channel, pair_safe=safe)
    takes_bias = [options.shift is not None and (always_shift or has_bias(use.planned)) for use in uses]
    wanted = options.round is not None and options.needs_moments
    second = second_moments(uses, centred=all(takes_bias)) if wanted else None
    if options.round is not None and (second is not None or not options.needs_moments):
        groups = 1 if second is None else len(second)
        grouped = rows.reshape(groups, -1, rows.shape[1])
        stored = options.round(grouped, second, scales.reshape(groups, -1), pair_safe=safe).reshape(
            rows.shape
        )
    else:
        stored = round_pair_safe(rows, scales) if safe else round_to_nearest(rows, scales)
    integers = original_order(stored, shape, axis)
    result = []
    for use, takes in zip(uses, takes_bias, strict=True):
        shift = None
        if takes and options.shift is not None and use.moments is not None and use.moments.rows:
            shift = options.shift(rows, stored, scales, use.moments.mean())
        result.append(QuantizedWeight(integers, scales, shift))
    return result


def second_moments(uses: Sequence[Use], *, centred: bool) -> Floats | None:
    """Of all rows that meet the weight, [groups, K, K]; about their means where biases take these."""
    total, rows = None, 0
    for use in uses:
        known = use.moments
        found = None if known is None else known.covariance() if centred else known.raw()
        if known is None or found is None:
            return None
        total = (
            found
            if total is None
            else (total * (rows / (rows + known.rows)) + found * (known.rows / (rows + known.rows)))
        )
        rows += known.rows
    return None if total is None else np.asarray(total, np.float32)


def _can_saturate(planned: PlannedNode, shape: tuple[int, ...]) -> bool:
    """Whether the pair rule matters: depthwise kernels multiply without adding pairs."""
    if planned.node.op_type != "Conv":
        return True
    group = attribute(planned.node, "group", 1)
    return not (shape[1] == 1 and shape[0] == group)


def _bias_steps(uses: Sequence[Use]) -> Array | None:
    """The largest bias of each channel over all uses, in steps of the activation."""
    biases = [(constant(input_at(use.planned.node, use.planned.row.bias)), use.input_scale) for use in uses]
    found = [
        np.abs(np.asarray(bias, np.float64)) / float(scale) for bias, scale in biases if bias is not None
    ]
    return np.max(found, axis=0) if found else None


def weight_scales(rows: Floats, bias: Array | None, *, per_channel: bool, pair_safe: bool) -> Floats:
    """Scales [channels] of a weight in kernel order; all equal where they are per tensor.

    A channel of zeros takes a scale with which its bias, in steps of the activation, keeps 20 bits.
    """
    largest = (
        np.maximum(rows.max(axis=1), -rows.min(axis=1)) if rows.shape[1] else np.zeros(len(rows), np.float32)
    )
    scales = symmetric_scale(largest if per_channel else np.full_like(largest, largest.max(initial=0)))
    if pair_safe:
        scales = pair_safe_scales(rows, scales)
    if bias is not None:
        empty = (
            (largest == 0) & (bias != 0) if per_channel else np.full(len(rows), largest.max(initial=0) == 0)
        )
        scales = np.where(empty, symmetric_scale(bias / 2.0**20 * INT8.high), scales)
        scales = np.maximum(scales, smallest_weight_scale(bias, np.float32(1)))
    least = smallest_sum_scale(rows, bias)
    if least is not None:
        scales = np.maximum(scales, least)
    return (
        scales.astype(np.float32)
        if per_channel
        else np.full(len(scales), scales.max(initial=0) or 1.0, np.float32)
    )


@by_blocks
def round_to_nearest(rows: Floats, scales: Floats) -> Integers:
    """Round [channels, K] to int8, each weight for itself; scales [channels]."""
    stored: Integers = np.clip(np.rint(rows / scales[:, None]), INT8.low, INT8.high).astype(np.int8)
    return stored
