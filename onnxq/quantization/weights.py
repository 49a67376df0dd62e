"""Weights as stored integers: scales, rounding, and the shift of the output that rounding causes.

Weights are quantized once; different ranges of the activations change only the biases.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from onnxq.calibration.moments import LayerInput, Moments, layer_input
from onnxq.graph.edit import attribute, constant, input_at, sizes
from onnxq.plan.plan import Plan, PlannedNode
from onnxq.plan.products import channel_axis, has_bias
from onnxq.runtime.machine import available_cores
from onnxq.runtime.parallel import IN_PROCESS, Executor, Job
from onnxq.techniques.arithmetic import (
    least_error_scales,
    smallest_sum_scale,
    smallest_weight_scale,
    symmetric_scale,
)
from onnxq.techniques.row_blocks import by_blocks
from onnxq.techniques.saturation import (
    PAIR_LIMIT,
    kernel_order,
    original_order,
    pair_safe_scales,
    round_pair_safe,
)
from onnxq.types import INT8, Array, Floats, Integers

IN_FLIGHT_WEIGHTS, IN_FLIGHT_SHARE = 1 << 25, 16
"""Most weights that are rounded side by side: so many, or this part of all if that is more.

Each needs some ten bytes while it is rounded.
"""


class RoundWeights(Protocol):
    """Signature of a rounding technique."""

    def __call__(
        self, rows: Floats, second: Any, scales: Floats, /, *, pair_safe: bool, limit: int
    ) -> Integers:
        """Round weights [groups, channels, K] to integers of at most `limit`, stored as int8.

        Args:
            rows: the weights.
            second: second moments of the layer's input, [groups, K, K], which may be overwritten; None where
                the technique needs none.
            scales: [groups, channels].
            pair_safe: keep sums of two neighbouring products within int16 (see `saturation`).
            limit: largest magnitude of the integers.
        """


ShiftOutput = Callable[[Floats, Integers, Floats, Floats], Floats]
"""Signature: rows [channels, K], integers, scales [channels], mean input [groups, K] -> shift [channels].

The shift is that of the mean output.
"""


@dataclass(frozen=True)
class WeightOptions:
    """Options of weight quantization.

    per_channel    one scale per output channel, otherwise one per tensor
    saturates      whether kernels of the target's CPUs add two products in 16 bits, which must not saturate
    round          rounding technique; None for rounding to nearest
    needs_moments  `round` needs second moments of the layer's input and is not used without them
    shift          correction of the bias for the mean rounding error; None for no correction
    bits           bits of a weight, at most 8; fewer are stored as int8, too
    """

    per_channel: bool = True
    saturates: bool = True
    round: RoundWeights | None = None
    needs_moments: bool = True
    shift: ShiftOutput | None = None
    bits: int = 8

    @property
    def limit(self) -> int:
        """Largest magnitude of a stored integer."""
        return largest_magnitude(self.bits)


def largest_magnitude(bits: int) -> int:
    """Return the largest magnitude of a symmetric integer of so many bits."""
    return int(2 ** (bits - 1)) - 1


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight as integers.

    stored  integers, in the shape of the weight
    scales  [channels]
    shift   [channels], to be added to the bias; None where it is unknown or there is no bias
    """

    stored: Integers
    scales: Floats
    shift: Floats | None


@dataclass(frozen=True)
class Use:
    """A planned node that uses a weight.

    planned      the node
    input_scale  least scale that its activation may get
    moments      moments of its activation; None where they are unknown
    """

    planned: PlannedNode
    input_scale: np.float32
    moments: Moments | None


def layer_inputs(plan: Plan) -> dict[str, LayerInput]:
    """Return the operand that each planned layer multiplies its weights with, by node name."""
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
    executor: Executor = IN_PROCESS,
) -> dict[str, QuantizedWeight]:
    """Quantize all planned weights, by node name.

    Args:
        plan: plan of the quantized nodes.
        input_scales: least scale that each source tensor may get, so that no bias overflows.
        moments: known moments of the layers' inputs.
        options: options of weight quantization.
        skip: names of nodes to leave out.
        executor: where the weights are rounded.
    """
    inputs = layer_inputs(plan)

    def uses_of(names: Sequence[str]) -> list[Use]:
        uses = []
        for name in names:
            planned = plan.nodes[name]
            activation = planned.node.inputs[planned.activations[0]]
            source = plan.tensors[(activation.name if activation is not None else None) or ""].source
            known = moments.get(inputs[name]) if name in inputs else None
            uses.append(Use(planned, np.float32(input_scales[source]), known))
        return uses

    wanted = [names for names in sharing(plan) if not skip.issuperset(names)]
    run = executor.opened(Quantization(options), side_by_side(plan.nodes[names[0]] for names in wanted))
    found = (weights for group in run(map(uses_of, wanted)) for weights in group)
    return {
        name: weight
        for names, weights in zip(wanted, found, strict=True)
        for name, weight in zip(names, weights, strict=True)
    }


def side_by_side(nodes: Iterable[PlannedNode]) -> int:
    """Return how many of some weights to round at a time: as many as there are cores, if memory allows."""
    largest = sorted((math.prod(sizes(planned.node.inputs[1]) or ()) for planned in nodes), reverse=True)
    room = max(IN_FLIGHT_WEIGHTS, sum(largest) // IN_FLIGHT_SHARE)
    return min(available_cores(), max(1, bisect_right(list(accumulate(largest)), room)))


def sharing(plan: Plan) -> list[list[str]]:
    """Return the names of the planned nodes with weights; nodes that share a weight form one group."""
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
    """Tell whether other nodes use the weights of these nodes; a change would then need copies."""
    return any(
        use.node not in nodes
        for node in nodes
        for value in node.inputs[1:2]
        if value is not None
        for use in value.uses()
    )


@dataclass(frozen=True, eq=False)
class Layer:
    """A weight to round, with everything that decides its integers.

    rows       the weight in kernel order, [channels, K]
    shape      of the weight
    axis       its channel axis
    pair_safe  whether sums of pairs can saturate
    biases     largest bias of each channel, as a multiple of the activation's scale; None without one
    second     second moments of the layer's input, which rounding may overwrite; None where they are unknown
    means      mean input [groups, K] of each use whose output's shift is corrected, None for other uses
    """

    rows: Floats
    shape: tuple[int, ...]
    axis: int
    pair_safe: bool
    biases: Array | None
    second: Floats | None
    means: tuple[Floats | None, ...]

    @staticmethod
    def of(uses: Sequence[Use], options: WeightOptions, *, always_shift: bool = False) -> "Layer":
        """Read a weight and what is known about its inputs; see `quantize_weight`."""
        first = uses[0].planned
        weight, axis = first.node.inputs[1], channel_axis(first)
        array = constant(weight)
        assert array is not None
        # a bias takes back the mean error, so second moments are centred then
        shifted = [options.shift is not None and (always_shift or has_bias(use.planned)) for use in uses]
        wanted = options.round is not None and options.needs_moments
        return Layer(
            kernel_order(array, axis).astype(np.float32, copy=False),
            tuple(sizes(weight) or ()),
            axis,
            must_be_pair_safe(first, options),
            _bias_steps(uses),
            second_moments(uses, centred=all(shifted)) if wanted else None,
            tuple(
                use.moments.mean() if has_shift and use.moments is not None and use.moments.rows else None
                for use, has_shift in zip(uses, shifted, strict=True)
            ),
        )

    def quantized(self, options: WeightOptions) -> list[QuantizedWeight]:
        """Quantize the weight for each of its uses; only their shifts differ."""
        scales = weight_scales(
            self.rows,
            self.biases,
            per_channel=options.per_channel,
            pair_safe=self.pair_safe,
            limit=options.limit,
        )
        stored = _round(self.rows, scales, self.second, options, pair_safe=self.pair_safe)
        integers, result = original_order(stored, self.shape, self.axis), []
        for mean in self.means:
            shift = None
            if mean is not None and options.shift is not None:
                shift = options.shift(self.rows, stored, scales, mean)
            result.append(QuantizedWeight(integers, scales, shift))
        return result


@dataclass(frozen=True, eq=False)
class Quantization(Job[Sequence[Use] | Layer, list[list[QuantizedWeight]]]):
    """Quantization of weights, one after the other."""

    options: WeightOptions
    always_shift: bool = False

    def opened(
        self, threads: int
    ) -> Callable[[Sequence[Sequence[Use] | Layer]], list[list[QuantizedWeight]]]:
        """Return the function of the uses of each weight."""
        del threads
        return lambda items: [self.sent(item).quantized(self.options) for item in items]

    def sent(self, item: Sequence[Use] | Layer) -> Layer:
        """Read a weight: nodes stay in this process."""
        if isinstance(item, Layer):
            return item
        return Layer.of(item, self.options, always_shift=self.always_shift)


def quantize_weight(
    uses: Sequence[Use], options: WeightOptions, *, always_shift: bool = False
) -> list[QuantizedWeight]:
    """Quantize one weight for all planned nodes that use it, with common integers and scales.

    Args:
        uses: the nodes.
        options: options of weight quantization.
        always_shift: whether every node can correct the shift of its output, even without a bias.

    Returns:
        The weight of each node; only their shifts differ.
    """
    return Layer.of(uses, options, always_shift=always_shift).quantized(options)


def _round(
    rows: Floats, scales: Floats, second: Floats | None, options: WeightOptions, *, pair_safe: bool
) -> Integers:
    """Round a weight in kernel order by the technique of the options, or to nearest."""
    if options.round is None or (second is None and options.needs_moments):
        return round_pair_safe(rows, scales) if pair_safe else round_to_nearest(rows, scales, options.limit)
    groups = 1 if second is None else len(second)
    grouped = rows.reshape(groups, -1, rows.shape[1])
    stored = options.round(
        grouped, second, scales.reshape(groups, -1), pair_safe=pair_safe, limit=options.limit
    )
    return stored.reshape(rows.shape)


def second_moments(uses: Sequence[Use], *, centred: bool) -> Floats | None:
    """Return the second moments of all rows that a weight is multiplied with, [groups, K, K].

    Args:
        uses: nodes that use the weight.
        centred: return moments about the mean, for nodes whose bias corrects the mean error.
    """
    total, rows = None, 0
    for use in uses:
        known = use.moments
        found = None if known is None else known.covariance() if centred else known.raw()
        if known is None or found is None:
            return None
        if total is None:
            total = found
        else:  # weighted by the numbers of rows
            total = total * (rows / (rows + known.rows)) + found * (known.rows / (rows + known.rows))
        rows += known.rows
    return None if total is None else np.asarray(total, np.float32)


def must_be_pair_safe(planned: PlannedNode, options: WeightOptions) -> bool:
    """Tell whether sums of pairs can saturate: depthwise kernels add no pairs, 7 bits are too few."""
    if not options.saturates or 2 * options.limit <= PAIR_LIMIT:
        return False
    if planned.node.op_type != "Conv":
        return True
    shape = sizes(planned.node.inputs[1])
    assert shape is not None
    return not (shape[1] == 1 and shape[0] == attribute(planned.node, "group", 1))


def _bias_steps(uses: Sequence[Use]) -> Array | None:
    """Return the largest bias of each channel over all uses, as a multiple of the activation's scale."""
    biases = [(constant(input_at(use.planned.node, use.planned.row.bias)), use.input_scale) for use in uses]
    found = [
        np.abs(np.asarray(bias, np.float64)) / float(scale) for bias, scale in biases if bias is not None
    ]
    return np.max(found, axis=0) if found else None


def weight_scales(
    rows: Floats, bias: Array | None, *, per_channel: bool, pair_safe: bool, limit: int = INT8.high
) -> Floats:
    """Return the scales [channels] of a weight in kernel order; all equal for a scale per tensor.

    A channel of zeros gets a scale with which its bias keeps 20 bits.

    Args:
        rows: the weight, [channels, K].
        bias: largest bias of each channel, as a multiple of the activation's scale; None without one.
        per_channel: one scale per output channel, otherwise one per tensor.
        pair_safe: keep sums of two neighbouring products within int16.
        limit: largest magnitude of the integers; below that of int8, the scales clip the largest weights.
    """
    largest = (
        np.maximum(rows.max(axis=1), -rows.min(axis=1)) if rows.shape[1] else np.zeros(len(rows), np.float32)
    )
    scales = symmetric_scale(largest if per_channel else np.full_like(largest, largest.max(initial=0)))
    if limit < INT8.high:
        scales = least_error_scales(rows, scales * np.float32(INT8.high / limit), limit)
        scales = scales if per_channel else np.full_like(scales, scales.max(initial=0))
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
def round_to_nearest(rows: Floats, scales: Floats, limit: int = INT8.high) -> Integers:
    """Round weights [channels, K] with scales [channels] to integers of at most `limit`, as int8."""
    stored: Integers = np.clip(np.rint(rows / scales[:, None]), -limit, limit).astype(np.int8)
    return stored
