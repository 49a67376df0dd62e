"""Per-layer error and kernel time of a quantized file, and histograms of calibrated tensors."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxq.calibration.statistics import Statistics
from onnxq.comparison.metrics import Noise
from onnxq.evaluation.verification import original_names
from onnxq.graph.edit import nodes_of, only_use
from onnxq.graph.files import load
from onnxq.graph.macs import ShapeByName, node_macs
from onnxq.graph.scratch import ScratchFolder
from onnxq.plan.plan import Plan
from onnxq.plan.products import following_bias
from onnxq.plan.relu_addends import find_addends
from onnxq.quantization.parameters import Parameters
from onnxq.quantization.stored_weight import StoredWeight
from onnxq.runtime.inner_values import expose
from onnxq.runtime.kernel_profile import KernelTime, kernel_times
from onnxq.runtime.sessions import open_exposed, open_session, run
from onnxq.types import Feeds

RUNS = 20
"""Runs of each model for the median kernel times."""
BARS = 64
"""Bins of a histogram."""
CLAMPS = frozenset({"Relu", "Clip"})
AT_RUN_TIME = "MatMulIntegerToFloat"
"""Operator of products with ranges at run time."""
FUSED = frozenset({"Add", "Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid"})
"""Operators that the runtime fuses into the convolution before; the last one names the fused node."""


@dataclass(frozen=True)
class Layer:
    """A node of the normalized model; a value without a measurement is None.

    macs      share of the model's MACs, 0..1
    planned   whether the plan quantizes it
    reason    why it stays in float
    sqnr_db   SQNR of its output against float, all layers before it quantized too, dB; of a node whose weight
        alone is in few bits, that of `weight`
    float_ms, int8_ms  median time of its kernel in the float model and in the file, one thread, ms
    inputs    indices of the layers whose outputs it reads
    outputs   names of its output values, then of the one behind a clamp that it absorbs
    weight    its weight in few bits, if the mode quantizes weights alone
    """

    name: str
    op_type: str
    macs: float
    planned: bool
    reason: str | None
    sqnr_db: float | None
    float_ms: float | None
    int8_ms: float | None
    inputs: list[int] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    weight: StoredWeight | None = None


@dataclass(frozen=True)
class Histogram:
    """Values of a calibrated tensor on the samples, and its clipping range.

    minimum, maximum  least and largest value
    low, high         ends of the clipping range
    clipped           share of values outside the clipping range, 0..1
    counts            number of values in `BARS` equal bins from minimum to maximum
    """

    name: str
    minimum: float
    maximum: float
    low: float
    high: float
    clipped: float
    counts: list[int]


def layer_rows(
    model: ir.Model,
    plan: Plan,
    path: Path,
    samples: Sequence[tuple[str, Feeds]],
    shapes: ShapeByName,
    weights: Mapping[str, StoredWeight],
) -> list[Layer]:
    """Measure all nodes, in graph order.

    Args:
        model: the normalized float model.
        plan: its quantization plan.
        path: the quantized file.
        samples: names and feeds of a few samples; without any, no time is measured.
        shapes: static shapes of the model's values, for the MACs.
        weights: by the name of their node, where weights alone are quantized.
    """
    errors = {name: weight.sqnr_db for name, weight in weights.items()}
    nodes, before, after = list(nodes_of(model)), dict[str, float](), dict[str, float]()
    if samples:
        errors = errors or _errors(model, plan, path, samples)
        feeds = [each for _, each in samples]
        before = claimed_ms(nodes, kernel_ms([model], feeds)[0])
        times = kernel_ms([path], feeds)[0]  # one session at a time: each may hold all weights
        claimed, left = assign_ms(nodes_of(load(path)), times)
        after = left | claimed  # joined products are not nodes of the file, so names from the profile stay
    macs = {node.name or "": node_macs(node, shapes) for node in nodes}
    total = max(1, sum(macs.values()))

    def absorbed(name: str) -> list[ir.Value]:
        return [plan.nodes[name].output] if name in plan.nodes else []

    rows: list[Layer] = []
    producers: dict[ir.Value | None, int] = {}
    for node in nodes:
        if node.op_type == "Constant":
            continue
        name = node.name or ""
        rows.append(
            Layer(
                name,
                node.op_type,
                macs[name] / total,
                name in plan.nodes or name in weights,
                str(plan.floats[name][1]) if name in plan.floats else None,
                errors.get(name),
                before.get(name),
                after.get(name),
                sorted({producers[value] for value in node.inputs if value in producers}),
                list(dict.fromkeys(value.name or "" for value in (*node.outputs, *absorbed(name)))),
                weights.get(name),
            )
        )
        producers |= dict.fromkeys(node.outputs, len(rows) - 1)
    return rows


def _errors(
    model: ir.Model, plan: Plan, path: Path, samples: Sequence[tuple[str, Feeds]]
) -> dict[str, float]:
    """Measure the output SQNR (dB) of each planned node of the main graph, by its name."""
    written = load(path)
    pairs = pairs_of(plan, written) | _run_time_pairs(plan, written)
    if not pairs:
        return {}
    addends = find_addends(model, (a for a, _ in pairs.values()))
    shown = dict.fromkeys([*(a for a, _ in pairs.values()), *(addend.other for addend in addends.values())])
    wanted, found = expose(model, list(shown)), expose(written, [b for _, b in pairs.values()])
    outputs = [[output for output, _ in each.outputs.values()] for each in (wanted, found)]
    errors = {name: Noise() for name in pairs}
    sessions = open_exposed(wanted.model), open_exposed(found.model)
    for sample, feeds in samples:
        expected, actual = (
            dict(zip(names, run(session, feeds, sample, list(names)), strict=True))
            for session, names in zip(sessions, outputs, strict=True)
        )
        for name, (a, b) in pairs.items():
            want, have = expected[wanted.outputs[a][0]], actual[found.outputs[b][0]]
            if (
                np.shape(want) == np.shape(have) and have.dtype.kind == "f"
            ):  # outputs of integer operators are integers
                if a in addends:
                    other = expected[wanted.outputs[addends[a].other][0]]
                    want, have = (addends[a].effective(each, other) for each in (want, have))
                errors[name].add(want, have)
    values = {name: error.sqnr_db() for name, error in errors.items()}
    return {name: value for name, value in values.items() if value is not None}


def pairs_of(plan: Plan, written: ir.Model) -> dict[str, tuple[str, str]]:
    """Pair each planned node's output in the float model with its counterpart in the quantized file."""
    nodes = {node.name: node for node in written.graph}
    pairs: dict[str, tuple[str, str]] = {}
    for name, planned in plan.nodes.items():
        node = nodes.get(name)
        if node is None or node.op_type != planned.node.op_type:  # in a subgraph, or an integer operator
            continue
        dequantized = _dequantized(node.outputs[0])
        plain = planned.node.outputs[0].name or "", node.outputs[0].name or ""
        pairs[name] = plain if dequantized is None else (planned.output.name or "", dequantized.name or "")
    return pairs


def _run_time_pairs(plan: Plan, written: ir.Model) -> dict[str, tuple[str, str]]:
    """Pair the outputs of products with ranges at run time, which keep their names, behind a bias too."""
    results = {node.name: node.outputs[0].name or "" for node in written.graph if node.op_type == AT_RUN_TIME}
    pairs: dict[str, tuple[str, str]] = {}
    for name, planned in plan.nodes.items():
        bias = following_bias(planned)
        own = [planned.node.outputs[0], *([bias[0].outputs[0]] if bias is not None else [])]
        if results.get(name) in {value.name for value in own}:
            pairs[name] = results[name], results[name]
    return pairs


def _dequantized(value: ir.Value) -> ir.Value | None:
    """Find the dequantized form of a value, behind activations that only clamp it."""
    uses = [use.node for use in value.uses()]
    if len(uses) == 1 and uses[0].op_type in CLAMPS:
        return _dequantized(uses[0].outputs[0])
    quantizer = next((node for node in uses if node.op_type == "QuantizeLinear"), None)
    if quantizer is None:
        return None
    return next(
        (
            use.node.outputs[0]
            for use in quantizer.outputs[0].uses()
            if use.node.op_type == "DequantizeLinear"
        ),
        None,
    )


def claimed_ms(nodes: Iterable[ir.Node], times: Mapping[str, float]) -> dict[str, float]:
    """Assign profiled times (ms) to nodes; see `assign_ms`."""
    return assign_ms(nodes, times)[0]


def assign_ms(
    nodes: Iterable[ir.Node], times: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Assign profiled times (ms) to nodes, and return the rest too; a time goes to the first node that fits.

    The runtime names a rewritten node after its output, which is the output of the last fused activation.
    """
    left, found = dict(times), {}
    for node in nodes:
        names, last = [node.name or "", node.outputs[0].name or ""], node
        while (follower := only_use(last.outputs[0])) is not None and follower.op_type in FUSED:
            names.append(follower.outputs[0].name or "")
            last = follower
        name = next((name for name in names if name in left), None)
        if name is not None:
            found[node.name or ""] = left.pop(name)
    return found, left


def kernel_ms(models: Sequence[ir.Model | Path], feeds: Sequence[Feeds]) -> list[dict[str, float]]:
    """Profile each model on one thread, in turns; return kernel times (ms) by node name.

    A time is the lower quartile of the runs: other work on the machine only adds to it.
    """
    with ScratchFolder() as folder:
        sessions = [
            open_session(model, threads=1, profile=folder / f"profile{i}") for i, model in enumerate(models)
        ]
        for i in range(RUNS):
            for session in sessions:
                run(session, feeds[i % len(feeds)], "")
        records = [kernel_times(session) for session in sessions]
    return [_lower_quartiles(calls) for calls in records]


def _lower_quartiles(calls: Sequence[KernelTime]) -> dict[str, float]:
    times: dict[str, list[float]] = {}
    for call in calls:
        whole, *parts = original_names(call.node)
        times.setdefault(whole, []).append(call.microseconds / 1000)
        for name in parts:  # joined products share the time equally
            times.setdefault(name, []).append(call.microseconds / 1000 / len(parts))
    return {name: float(np.percentile(each, 25)) for name, each in times.items()}


def histograms(plan: Plan, parameters: Parameters, tensors: Statistics) -> list[Histogram]:
    """Collect histograms of the calibrated tensors, in the order of the plan."""
    rows = []
    for name in plan.sources():
        sketch, params = tensors.sketch(name), parameters.activations.get(name)
        if sketch is None or params is None or not sketch.seen:
            continue
        zero, scale = float(params.zero_point), float(params.scale)
        low, high = (params.type.low - zero) * scale, (params.type.high - zero) * scale
        values = sketch.distribution()
        counts, _ = np.histogram(
            values.centers, BARS, (sketch.minimum, sketch.maximum), weights=values.counts
        )
        outside = values.counts[
            (values.centers < low - scale / 2) | (values.centers > high + scale / 2)
        ].sum()
        clipped = float(outside / values.counts.sum())
        rows.append(
            Histogram(
                name, sketch.minimum, sketch.maximum, low, high, clipped, np.rint(counts).astype(int).tolist()
            )
        )
    return rows
