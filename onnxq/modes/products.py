"""Matrix products with constant weights, for the modes without calibrated ranges."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxq.calibration.collect import MomentOptions, collect_moments
from onnxq.calibration.moments import MEMORY, LayerInput, Moments
from onnxq.calibration.statistics import Statistics
from onnxq.data.sample import Sample
from onnxq.errors import NothingToQuantize
from onnxq.formats.recipe import Recipe
from onnxq.graph.edit import attribute, constant, is_constant, is_float, nodes_of, sizes
from onnxq.graph.files import digest
from onnxq.plan.constraints import channels_axis
from onnxq.plan.operators import ALREADY_QUANTIZED, OPERATORS
from onnxq.plan.plan import Plan, PlannedNode, Selection
from onnxq.plan.products import channel_axis
from onnxq.plan.reasons import Cause, FloatReason
from onnxq.runtime.parallel import IN_PROCESS, Executor
from onnxq.search.inputs import Inputs
from onnxq.search.trial import Choice, Outcome, Trial
from onnxq.search.unseen import unseen_outputs
from onnxq.techniques.arithmetic import LONGEST_SUM
from onnxq.techniques.saturation import kernel_order
from onnxq.types import Floats

SMALLEST = 1 << 10
"""Least number of values of a weight that is quantized."""
LARGEST_MOMENTS = 256 << 20
"""Bytes of one layer's second moments, at most; larger layers are rounded without them."""


def outcome(
    inputs: Inputs,
    written: ir.Model,
    recipe: Recipe,
    notes: Sequence[str] = (),
    stored: int = 0,
    otherwise: str = "it has no MatMul or Gemm",
) -> Outcome:
    """Return the outcome of a mode that calibrates no ranges.

    Args:
        inputs: options, model and samples.
        written: the model to write.
        recipe: the float model before any transform, the quantized products, and the techniques.
        notes: further lines for the report.
        stored: number of other nodes with weights in fewer bits.
        otherwise: why there is nothing to quantize, where no product has a reason.

    Raises:
        NothingToQuantize: neither a product nor a weight was quantized.
    """
    options, plan = inputs.options, recipe.plan
    if not plan.nodes and not stored:
        reasons = [f"{node.op_type} '{node.name}': {why}" for node, why in plan.floats.values()]
        why = reasons[0] if reasons else otherwise
        quantized = sum(node.op_type in ALREADY_QUANTIZED for node in nodes_of(inputs.model))
        why = f"it is quantized already ({quantized} integer nodes)" if quantized else why
        raise NothingToQuantize(f"{options.model}: nothing to quantize: {why}")
    statistics = Statistics(digest(options.model), sketches={})
    statistics.samples = len(inputs.samples.calibration)
    names = tuple(str(name) for name in recipe.techniques)
    recipe = replace(recipe, method=options.method, techniques=names)
    warnings = tuple(unseen_outputs(inputs, plan))
    choice = Choice(recipe, Trial(options.method, names, None), warnings=warnings)
    return Outcome(written, choice, statistics, notes=tuple(notes), stored=stored)


def bytes_by_channel(channels: int, columns: int) -> int:
    """Return the bytes of an int8 weight [channels, columns] with a scale and zero point per channel."""
    return channels * (columns + 4 + 1)


def plan_products(
    model: ir.Model, selection: Selection, stored: Callable[[int, int], int] = bytes_by_channel
) -> Plan:
    """Plan all products with constant weights that the user selects, with reasons for the others.

    Args:
        model: the normalized model.
        selection: the user's selection of nodes.
        stored: bytes of a quantized weight [channels, columns]; one that is no smaller stays float.
    """
    plan = Plan()
    for node in nodes_of(model):
        if node.domain not in ("", "ai.onnx"):
            continue
        reason = _refusal(node, selection, stored)
        if reason is None:
            row = replace(OPERATORS[node.op_type], needs_output_q=False)
            plan.nodes[node.name or ""] = PlannedNode(
                node, row, (0,), (), node.outputs[0], integer_output=False
            )
        elif node.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose", "LSTM", "GRU"):
            plan.floats[node.name or ""] = node, FloatReason(Cause.NO_KERNEL, reason)
    return plan


def _refusal(node: ir.Node, selection: Selection, stored: Callable[[int, int], int]) -> str | None:
    if node.op_type not in ("MatMul", "Gemm"):
        return f"{node.op_type} has no kernel of this mode that is faster than float"
    weight = node.inputs[1]
    shape = sizes(weight)
    if not is_constant(weight) or shape is None:
        return "weight is not constant"
    if not is_float(node.outputs[0]) or not is_float(weight):
        return "is not float32"
    if len(shape) != 2:
        return f"weight has {len(shape)} axes"
    row = OPERATORS[node.op_type]
    channels = max(1, shape[channels_axis(node, row)])
    columns = int(np.prod(shape)) // channels
    if columns > LONGEST_SUM:
        return "its sums of products do not fit into int32"
    if attribute(node, "transA", 0):
        return "its first operand is transposed"
    if np.prod(shape) < SMALLEST:
        return f"weight has only {np.prod(shape)} values"
    if stored(channels, columns) >= 4 * channels * columns:
        return f"its quantized weight of {columns} by {channels} would be no smaller"
    return selection.refusal(node)


def weight_rows(planned: PlannedNode) -> Floats:
    """Read a product's weight as [channels, K]; it may lie on disk."""
    weight = constant(planned.node.inputs[1])
    assert weight is not None
    return np.ascontiguousarray(kernel_order(weight, channel_axis(planned)), np.float32)


def moments_in_turns(
    model: ir.Model, layers: Sequence[LayerInput], samples: Sequence[Sample], executor: Executor = IN_PROCESS
) -> "MomentsInTurns":
    """Collect second moments of layers' inputs, as many layers at a time as fit into memory."""
    turns: list[list[LayerInput]] = [[]]
    used = 0
    for layer in dict.fromkeys(layers):
        size = 4 * layer.groups * layer.size**2
        if used + size > MEMORY and turns[-1]:
            turns.append([])
            used = 0
        turns[-1].append(layer)
        used += size
    return MomentsInTurns(model, turns, samples, executor)


class MomentsInTurns(Mapping[LayerInput, Moments]):
    """Moments that are collected on first use, a turn of layers at a time; only one turn is in memory."""

    def __init__(
        self, model: ir.Model, turns: list[list[LayerInput]], samples: Sequence[Sample], executor: Executor
    ) -> None:
        self.model, self.turns, self.samples, self.executor = model, turns, samples, executor
        self._moments: dict[LayerInput, Moments] = {}

    def __getitem__(self, layer: LayerInput) -> Moments:
        if layer not in self._moments:
            turn = next((turn for turn in self.turns if layer in turn), None)
            if turn is None:
                raise KeyError(layer)
            self._moments = {}  # frees the memory first
            how = MomentOptions(second=True, most=LARGEST_MOMENTS, rows=4)
            self._moments = collect_moments(self.model, turn, self.samples, how, self.executor)
        return self._moments[layer]

    def __iter__(self) -> Iterator[LayerInput]:
        return iter([layer for turn in self.turns for layer in turn])

    def __len__(self) -> int:
        return sum(map(len, self.turns))
