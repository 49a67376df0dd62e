"""`onnxq debug`: a quantized file against its float model, layer by layer."""

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
from onnxq.evaluation.report import PartScore
from onnxq.graph.edit import Names, constant
from onnxq.graph.files import load
from onnxq.normalize.passes import normalize
from onnxq.plan.plan import make_plan
from onnxq.plan.relu_addends import Addend, find_addends
from onnxq.runtime.inner_values import Exposed, expose
from onnxq.runtime.sessions import model_inputs, open_exposed, run
from onnxq.techniques.saturation import kernel_order, saturating_pairs
from onnxq.types import Array, Feeds

SAMPLES = 8
WORST = 10
CLIPPED = 1e-3
"""Share of values outside the integers' range that is worth a word."""
ALIKE, HALF_AN_OCTAVE = 0.95, 0.5
"""A channel whose values are float's but for a factor, and one beyond what rounding could make it."""
NEAR_DB = 15.0
"""Layers below this are worth one too."""


@dataclass(frozen=True)
class DebugRow:
    """One layer, in the order of the graph.

    sqnr_db     behind it, all layers before it quantized too, dB; channels that the file divides are scaled back
    own_db      behind it, its inputs float's, dB: what it does itself; None where its inputs are none of the float model's
    low, high   least and largest value seen in float; of an addend, of what counts in front of a Relu behind the sum
    clipped     share of its values outside what its integers hold; None where it stays float
    saturating  pairs of its weights that CPUs without VNNI add wrongly
    advice      what to try; empty where nothing is wrong
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
    """All layers, and the worst of them first; the parts of the outputs, worst first."""

    model: str
    other: str
    samples: int
    layers: list[DebugRow]
    worst: list[DebugRow]
    outputs: list[PartScore] = field(default_factory=list)


@dataclass
class _Seen:
    """What the samples show of one layer."""

    error: Noise
    own: Noise
    low: float = np.inf
    high: float = -np.inf
    outside: int = 0
    count: int = 0

    def add_own(self, want: Array, have: Array) -> None:
        if want.size and want.shape == have.shape and have.dtype.kind == "f":
            self.own.add(want, np.asarray(_scaled_back(want, have)[0]))

    def add(self, want: Array, have: Array, held: tuple[float, float] | None) -> None:
        if want.size == 0 or want.shape != have.shape or have.dtype.kind != "f":
            return
        self.low, self.high = min(self.low, float(want.min())), max(self.high, float(want.max()))
        found, factor = _scaled_back(want, have)
        self.error.add(want, np.asarray(found))
        if held is not None:
            self.outside += int(np.count_nonzero((want * factor < held[0]) | (want * factor > held[1])))
            self.count += want.size


def fed_with_floats(written: ir.Model, float_values: set[str]) -> tuple[ir.Model, dict[str, str]]:
    """A copy whose layers take the float model's values, quantized as the file does it, in place of each other's.

    Returns:
        the copy, and its additional inputs with the names of the float values that they want.
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
        stored = _again(copy.graph, quantizer, entry, names)
        for reader in readers:
            read = _again(copy.graph, reader, stored, names)
            for use in list(reader.outputs[0].uses()):
                if use.node.graph is copy.graph:
                    use.node.replace_input_with(use.idx, read)
    copy.graph.sort()
    return copy, entries


def _again(graph: ir.Graph, node: ir.Node, source: ir.Value, names: Names) -> ir.Value:
    """The same Q or DQ over another value."""
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


def _fed(alone: ir.Model, behind: Iterable[str]) -> set[str]:
    """Layers whose activation comes from an additional input, or from an input of the model."""
    inputs = {value.name for value in alone.graph.inputs}
    nodes = {node.name or "": node for node in alone.graph}
    found = set()
    for name in behind:
        activation = nodes[name].inputs[0]
        for _ in range(2):  # behind a Q and a DQ
            producer = activation.producer() if activation is not None else None
            if producer is not None and producer.op_type in ("QuantizeLinear", "DequantizeLinear"):
                activation = producer.inputs[0]
        if activation is not None and activation.name in inputs:
            found.add(name)
    return found


def _values(form: Exposed, session: ort.InferenceSession, feeds: Feeds, sample: str) -> dict[str, Array]:
    """What a run shows, by the names that were asked for."""
    return form.values(run(session, feeds, sample, [output for output, _ in form.outputs.values()]))


def debug(model: Path, other: Path, data: Path, preprocess: str | None = None) -> DebugReport:
    """Compare the values behind each layer over a few samples.

    Raises:
        OnnxqError: a model or the data cannot be used, or the files have no layer in common.
    """
    written = load(other)
    source = normalize(load(model))
    specs = model_inputs(source)
    samples = spread(open_samples(data, specs, read_forms(preprocess), SAMPLES * 25), SAMPLES)
    pairs = pairs_of(make_plan(source), written)
    if not pairs:
        raise ModelError(
            f"{other}: has no layer of {model} in QDQ form: give a file that onnxq made of this model"
        )
    float_values = {value.name or "" for node in source.graph for value in node.outputs}
    alone, entries = fed_with_floats(written, float_values)
    addends = find_addends(source, (a for a, _ in pairs.values()))
    others = [addend.other for addend in addends.values()]
    wanted = expose(
        source, list(dict.fromkeys([*(a for a, _ in pairs.values()), *entries.values(), *others]))
    )
    forms = [expose(each, [b for _, b in pairs.values()]) for each in (written, alone)]
    held = {name: _held(written, b) for name, (_, b) in pairs.items()}
    seen = {name: _Seen(Noise(), Noise()) for name in pairs}
    reached = _fed(alone, pairs)
    sessions = [open_exposed(each.model) for each in (wanted, *forms)]
    for sample in samples:
        feeds = check_feeds(sample, specs)
        left = _values(wanted, sessions[0], feeds, sample.name)
        right = _values(forms[0], sessions[1], feeds, sample.name)
        own = _values(
            forms[1], sessions[2], feeds | {entry: left[name] for entry, name in entries.items()}, sample.name
        )
        for name, (a, b) in pairs.items():
            want, have, alone_have = (
                _counting(each, addends.get(a), left) for each in (left[a], right[b], own[b])
            )
            seen[name].add(want, have, held[name])
            if name in reached:
                seen[name].add_own(want, alone_have)
    nodes = {node.name or "": node for node in written.graph}
    rows = [_row(nodes[name], seen[name], quantized=held[name] is not None) for name in pairs]
    measured = sorted((row for row in rows if row.sqnr_db is not None), key=lambda row: row.sqnr_db or 0.0)
    compared = evaluate(
        model, [other], data, EvalOptions(samples=SAMPLES, latency=False, preprocess=preprocess)
    )
    return DebugReport(str(model), str(other), len(samples), rows, measured[:WORST], compared.scores[1].parts)


def _counting(values: Array, addend: Addend | None, floats: Mapping[str, Array]) -> Array:
    """Of an addend in front of a Relu, what counts behind the sum: no integers are spent on the rest."""
    return values if addend is None else addend.counting(values, floats[addend.other])


def _scaled_back(want: Array, have: Array) -> tuple[Array, Array | float]:
    """Undo factors a channel, which equalization and smoothing put on values between layers; what the file's values are of float's."""
    axis = 1 if want.ndim > 2 else -1
    if want.ndim < 2:
        return have, 1.0
    others = tuple(i for i in range(want.ndim) if i != axis % want.ndim)
    power = np.square(want, dtype=np.float64).sum(others, keepdims=True)
    product = (want.astype(np.float64) * have).sum(others, keepdims=True)
    alike = product > ALIKE * np.sqrt(power * np.square(have, dtype=np.float64).sum(others, keepdims=True))
    factor = np.where(alike & (power > 0), product / np.where(power > 0, power, 1), 1.0)
    factor = np.where(np.abs(np.log2(np.maximum(factor, 1e-9))) > HALF_AN_OCTAVE, factor, 1.0)
    return (have / factor).astype(np.float32), factor.astype(np.float32)


def _held(written: ir.Model, name: str) -> tuple[float, float] | None:
    """What the integers behind a dequantized value hold, half a step added at each end."""
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


def _row(node: ir.Node, seen: _Seen, *, quantized: bool) -> DebugRow:
    sqnr = seen.error.sqnr_db()
    clipped = seen.outside / seen.count if seen.count else None
    pairs = _saturating(node)
    advice: Sequence[str] = (
        *(["its weights saturate on CPUs without VNNI: --target portable"] if pairs else []),
        *(
            [f"{clipped:.1%} of its values are cut: --method minmax or mse"]
            if clipped is not None and clipped > CLIPPED
            else []
        ),
        *(
            [f"--exclude '{node.name}', or more samples"]
            if quantized and sqnr is not None and sqnr < NEAR_DB
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
    """Pairs of a stored weight that break the rule of `techniques.saturation`; depthwise kernels add no pairs."""
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
