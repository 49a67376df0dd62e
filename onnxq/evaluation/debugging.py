"""`onnxq debug`: compare a quantized file with its float model layer by layer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from onnxq.comparison.metrics import Noise
from onnxq.data.preprocessing import read_forms
from onnxq.data.samples import check_feeds, open_samples, spread
from onnxq.errors import ModelError
from onnxq.evaluation.evaluate import EvalOptions, evaluate
from onnxq.evaluation.layer_errors import pairs_of
from onnxq.evaluation.origin import Origin
from onnxq.evaluation.report import PartScore
from onnxq.graph.edit import Names, constant
from onnxq.graph.files import load
from onnxq.normalize.passes import normalize
from onnxq.plan.plan import make_plan
from onnxq.plan.relu_addends import Addend, find_addends
from onnxq.runtime.inner_values import Exposed, expose
from onnxq.runtime.sessions import explained, model_inputs, open_exposed, run
from onnxq.techniques.saturation import kernel_order, saturating_pairs
from onnxq.types import Array, Feeds

SAMPLES = 8
WORST_LAYERS = 10
CLIPPED_SHARE = 1e-3
"""Share of clipped values above which a layer gets advice."""
MIN_COSINE, MIN_LOG2_FACTOR = 0.95, 0.5
"""Cosine above which a channel is a scaled copy of float, and |log2| of the least scaling factor."""
LOW_SQNR_DB = 15.0
"""SQNR (dB) below which a layer gets advice."""


@dataclass(frozen=True)
class DebugRow:
    """Error of one layer.

    sqnr_db     SQNR of its output, all layers before it quantized too, dB; scaled channels are scaled back
    own_db      SQNR of its output with the float model's inputs, dB: its own error; None without such inputs
    low, high   least and largest float value; for an addend before a Relu, only of values that affect the
                Relu
    clipped     share of values outside the clipping range, 0..1; None if it stays in float
    saturating  pairs of weights that may saturate on CPUs without VNNI
    advice      options to try; empty if no problem was found
    """

    name: str
    op_type: str
    sqnr_db: float | None
    own_db: float | None
    low: float
    high: float
    clipped: float | None
    saturating: int
    advice: str


@dataclass(frozen=True)
class DebugReport:
    """Report of `onnxq debug`.

    layers   all layers in graph order
    worst    layers with the least SQNR, worst first
    outputs  output parts, worst first
    origin   command, machine, versions, digests
    """

    model: str
    other: str
    samples: int
    layers: list[DebugRow]
    worst: list[DebugRow]
    outputs: list[PartScore] = field(default_factory=list)
    origin: Origin | None = None


@dataclass
class _LayerErrors:
    """Sums over samples for one layer; `error` with quantized inputs, `own` with float inputs.

    `least` is the least |log2| of a channel's scaling factor: smaller ones are errors.
    """

    error: Noise
    own: Noise
    least: float = MIN_LOG2_FACTOR
    low: float = np.inf
    high: float = -np.inf
    outside: int = 0
    count: int = 0

    def add_own(self, want: Array, have: Array) -> None:
        if want.size and want.shape == have.shape and have.dtype.kind == "f":
            self.own.add(want, np.asarray(_scaled_back(want, have, self.least)[0]))

    def add(self, want: Array, have: Array, clipping: tuple[float, float] | None) -> None:
        if want.size == 0 or want.shape != have.shape or have.dtype.kind != "f":
            return
        self.low, self.high = min(self.low, float(want.min())), max(self.high, float(want.max()))
        found, factor = _scaled_back(want, have, self.least)
        self.error.add(want, np.asarray(found))
        if clipping is not None:
            self.outside += int(
                np.count_nonzero((want * factor < clipping[0]) | (want * factor > clipping[1]))
            )
            self.count += want.size


def with_float_inputs(written: ir.Model, float_values: set[str]) -> tuple[ir.Model, dict[str, str]]:
    """Copy a quantized model so that each layer gets float values from new inputs, quantized as before.

    Returns:
        The copy, and by new input the name of the float value to feed.
    """
    copy, entries = written.clone(), {}
    names = Names(copy)
    for quantizer in [node for node in copy.graph if node.op_type == "QuantizeLinear"]:
        value = quantizer.inputs[0]
        readers = [use.node for use in quantizer.outputs[0].uses() if use.node.op_type == "DequantizeLinear"]
        if value is None or value.name not in float_values or not readers:
            continue
        entry = ir.Value(name=names.fresh(f"{value.name}_float"), type=ir.TensorType(ir.DataType.FLOAT))
        copy.graph.inputs.append(entry)
        entries[entry.name or ""] = value.name or ""
        stored = _copy_over(copy.graph, quantizer, entry, names)
        for reader in readers:
            read = _copy_over(copy.graph, reader, stored, names)
            for use in list(reader.outputs[0].uses()):
                if use.node.graph is copy.graph:
                    use.node.replace_input_with(use.idx, read)
    copy.graph.sort()
    return copy, entries


def _copy_over(graph: ir.Graph, node: ir.Node, source: ir.Value, names: Names) -> ir.Value:
    """Add a copy of a Q or DQ node with another input; return its output."""
    output = ir.Value(name=names.fresh(f"{source.name}_again"), type=node.outputs[0].type)
    attributes = list(node.attributes.values())
    graph.append(
        ir.Node(
            node.domain,
            node.op_type,
            [source, *node.inputs[1:]],
            attributes,
            outputs=[output],
            name=names.fresh(f"{node.name}_again"),
        )
    )
    return output


def _on_inputs(isolated: ir.Model, layers: Iterable[str]) -> set[str]:
    """Find the layers whose activation is an input of the model, behind at most one Q and DQ."""
    inputs = {value.name for value in isolated.graph.inputs}
    nodes = {node.name or "": node for node in isolated.graph}
    found = set()
    for name in layers:
        activation = nodes[name].inputs[0]
        for _ in range(2):  # Q and DQ
            producer = activation.producer() if activation is not None else None
            if producer is not None and producer.op_type in ("QuantizeLinear", "DequantizeLinear"):
                activation = producer.inputs[0]
        if activation is not None and activation.name in inputs:
            found.add(name)
    return found


def _values(form: Exposed, session: ort.InferenceSession, feeds: Feeds, sample: str) -> dict[str, Array]:
    """Run a model and return its exposed values by their original names."""
    return form.values(run(session, feeds, sample, [output for output, _ in form.outputs.values()]))


def debug(model: Path, other: Path, data: Path, preprocess: str | None = None) -> DebugReport:
    """Compare the output of each layer over a few samples.

    Args:
        model: the float model.
        other: the quantized file.
        data: folder or file of samples, or module:function.
        preprocess: preset or TOML file for preprocessing.

    Raises:
        OnnxqError: A model or the data cannot be used, or the files have no layer in common.
    """
    written = load(other)
    with explained(model):
        source = normalize(load(model))
    specs = model_inputs(source)
    samples = spread(open_samples(data, specs, read_forms(preprocess), SAMPLES * 25, model), SAMPLES)
    pairs = pairs_of(make_plan(source), written)
    if not pairs:
        raise ModelError(
            f"{other}: has no layer of {model} in QDQ format: give a file that onnxq quantized from this "
            "model"
        )
    float_values = {value.name or "" for node in source.graph for value in node.outputs}
    isolated, entries = with_float_inputs(written, float_values)
    addends = find_addends(source, (a for a, _ in pairs.values()))
    others = [addend.other for addend in addends.values()]
    wanted = expose(
        source, list(dict.fromkeys([*(a for a, _ in pairs.values()), *entries.values(), *others]))
    )
    forms = [expose(each, [b for _, b in pairs.values()]) for each in (written, isolated)]
    ranges = {name: _clipping_range(written, b) for name, (_, b) in pairs.items()}
    seen = {
        name: _LayerErrors(
            Noise(), Noise(), MIN_LOG2_FACTOR if _source_name(written, b) in float_values else 0.0
        )
        for name, (_, b) in pairs.items()
    }
    on_inputs = _on_inputs(isolated, pairs)
    sessions = [open_exposed(each.model) for each in (wanted, *forms)]
    for sample in samples:
        feeds = check_feeds(sample, specs)
        left = _values(wanted, sessions[0], feeds, sample.name)
        right = _values(forms[0], sessions[1], feeds, sample.name)
        own = _values(
            forms[1], sessions[2], feeds | {entry: left[name] for entry, name in entries.items()}, sample.name
        )
        for name, (a, b) in pairs.items():
            want, have, own_have = (
                _relevant(each, addends.get(a), left) for each in (left[a], right[b], own[b])
            )
            seen[name].add(want, have, ranges[name])
            if name in on_inputs:
                seen[name].add_own(want, own_have)
    nodes = {node.name or "": node for node in written.graph}
    rows = [_row(nodes[name], seen[name], quantized=ranges[name] is not None) for name in pairs]
    measured = sorted((row for row in rows if row.sqnr_db is not None), key=lambda row: row.sqnr_db or 0.0)
    compared = evaluate(
        model, [other], data, EvalOptions(samples=SAMPLES, latency=False, preprocess=preprocess)
    )
    parts = compared.scores[1].parts
    return DebugReport(
        str(model), str(other), len(samples), rows, measured[:WORST_LAYERS], parts, compared.origin
    )


def _relevant(values: Array, addend: Addend | None, floats: Mapping[str, Array]) -> Array:
    """Keep the values of an addend before a Relu that affect the Relu; the rest needs no integers."""
    return values if addend is None else addend.effective(values, floats[addend.other])


def _source_name(written: ir.Model, name: str) -> str:
    """Return the name of the value in front of its Q and DQ; transforms that scale a value rename it."""
    producers = {node.outputs[0].name: node for node in written.graph}
    for _ in range(2):
        node = producers.get(name)
        if node is not None and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            name = node.inputs[0].name or "" if node.inputs[0] is not None else name
    return name


def _scaled_back(want: Array, have: Array, least: float) -> tuple[Array, Array | float]:
    """Undo channel factors of equalization and smoothing.

    Args:
        want: values of the float model.
        have: values of the other model.
        least: least |log2| of a factor that is undone.

    Returns:
        The rescaled values, and the factor of each channel (quantized / float).
    """
    axis = 1 if want.ndim > 2 else -1
    if want.ndim < 2:
        return have, 1.0
    others = tuple(i for i in range(want.ndim) if i != axis % want.ndim)
    power = np.square(want, dtype=np.float64).sum(others, keepdims=True)
    product = (want.astype(np.float64) * have).sum(others, keepdims=True)
    alike = product > MIN_COSINE * np.sqrt(
        power * np.square(have, dtype=np.float64).sum(others, keepdims=True)
    )
    factor = np.where(alike & (power > 0), product / np.where(power > 0, power, 1), 1.0)
    factor = np.where(np.abs(np.log2(np.maximum(factor, 1e-9))) > least, factor, 1.0)
    return (have / factor).astype(np.float32), factor.astype(np.float32)


def _clipping_range(written: ir.Model, name: str) -> tuple[float, float] | None:
    """Return the clipping range of a dequantized value plus half a step at each end; None if in float."""
    node = next((node for node in written.graph if node.outputs[0].name == name), None)
    if node is None or node.op_type != "DequantizeLinear":
        return None
    scale, zero = (
        constant(node.inputs[1]),
        constant(node.inputs[2]) if len(node.inputs) > 2 else np.array(0, np.uint8),
    )
    if scale is None or zero is None or scale.size != 1:
        return None
    kind = np.iinfo(zero.dtype)
    step, middle = float(scale.reshape(())), int(zero.reshape(()))
    return (kind.min - middle - 0.5) * step, (kind.max - middle + 0.5) * step


def _row(node: ir.Node, seen: _LayerErrors, *, quantized: bool) -> DebugRow:
    sqnr = seen.error.sqnr_db()
    clipped = seen.outside / seen.count if seen.count else None
    pairs = _saturating(node)
    advice: Sequence[str] = (
        *(["weights may saturate on CPUs without VNNI: --target portable"] if pairs else []),
        *(
            [f"{clipped:.1%} of its values are clipped: --method minmax or mse"]
            if clipped is not None and clipped > CLIPPED_SHARE
            else []
        ),
        *(
            [f"--exclude '{node.name}', or more samples"]
            if quantized and sqnr is not None and sqnr < LOW_SQNR_DB
            else []
        ),
    )
    return DebugRow(
        node.name or "",
        node.op_type,
        sqnr,
        seen.own.sqnr_db(),
        seen.low,
        seen.high,
        clipped,
        pairs,
        "; ".join(advice),
    )


def _saturating(node: ir.Node) -> int:
    """Count the weight pairs that may saturate (see `techniques.saturation`); none in depthwise kernels."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    producer = value.producer() if value is not None else None
    stored = (
        constant(producer.inputs[0])
        if producer is not None and producer.op_type == "DequantizeLinear"
        else None
    )
    if stored is None or stored.dtype != np.int8 or (node.op_type == "Conv" and stored.shape[1] == 1):
        return 0
    transposed = node.op_type == "Gemm" and "transB" in node.attributes and node.attributes["transB"].as_int()
    return saturating_pairs(kernel_order(stored, 0 if node.op_type == "Conv" or transposed else 1))
