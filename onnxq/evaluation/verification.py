"""Verification of a quantized file: kernels that run, and output error against the float model.

Samples run three ways: the float model, the file with graph optimization (integer kernels), and the file
without it (Q/DQ in float). A large difference between the last two is a wrong fusion or saturation, and is
reported.
"""

import re
import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from onnxq.comparison.bounds import bounds
from onnxq.comparison.caches import CacheError
from onnxq.comparison.errors import OutputErrors, PartError, decibels
from onnxq.comparison.feedback import Feedback, evenly
from onnxq.comparison.metrics import MAX_DB
from onnxq.comparison.observation import SEEN, Comparison, Observation, Observed, Opened, observe, run_all
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds
from onnxq.errors import DataError
from onnxq.evaluation.box_agreement import BoxAgreement, BoxTally
from onnxq.formats.joint_products import JOINT
from onnxq.graph.edit import nodes_of
from onnxq.graph.files import load
from onnxq.graph.macs import ShapeByName, node_macs
from onnxq.graph.scratch import ScratchFolder
from onnxq.plan.operators import INTEGER_KERNELS
from onnxq.plan.plan import Plan
from onnxq.runtime.disk_list import DiskList, array_bytes
from onnxq.runtime.parallel import IN_PROCESS, Executor, Job
from onnxq.runtime.sessions import InputSpec, detached, open_session
from onnxq.types import Array, Feeds

SUSPECT_DB = 3.0
"""Loss of SQNR (dB) by graph optimization that indicates wrong kernels, ..."""
CLEAN_DB = 40.0
"""... unless the optimized SQNR (dB) is above this."""
CHECKED = 4
"""Samples run without graph optimization, which is slow."""
HEAVY, MANY = 0.5, 20
"""Share of the noise, and sample count per named sample: name samples if few carry that share."""
HELD_BYTES = 64 << 20
"""Most bytes of inputs and float outputs in memory while the quantized file runs."""
LEAST_VERIFIED, MOST_BLOCKS = 25, 4
"""Samples compared regardless of their size, and most blocks of samples beyond that."""


@dataclass(frozen=True)
class Kernels:
    """Kernels in the optimized graph of a quantized file.

    integer_share     share of the planned nodes' MACs in integer kernels, 0..1
    model_share       share of all MACs of the model in integer kernels, 0..1
    counts            nodes of the optimized graph by operator type
    leftover          QuantizeLinear and DequantizeLinear nodes that still run, including those of weights
    requantizations   tensors converted from one scale and zero point to another
    fell_back         planned nodes with MACs that run in float nevertheless
    """

    integer_share: float
    model_share: float
    counts: dict[str, int]
    leftover: int
    requantizations: list[str]
    fell_back: list[str]


@dataclass(frozen=True)
class DecisionShare:
    """Decisions (argmax) of one output.

    count     number of decisions in the samples
    changed   share of decisions that differ from the float model's, 0..1
    expected  expected share of changes on other samples with noise of this size, 0..1
    """

    output: str
    count: int
    changed: float
    expected: float


UNEVEN_SHARE, UNEVEN_NOISE, UNEVEN_SIGNAL = 0.25, 0.04, 0.1
"""An output is named where this share of the samples has more noise than the second of its signal (14 dB),
and less than the third of the mean signal."""


@dataclass(frozen=True)
class SampleError:
    """A sample with a large output error.

    sqnr_db      SQNR of its worst output part, dB
    noise_share  its share of the noise of one output part over all samples, 0..1
    """

    sample: str
    sqnr_db: float
    noise_share: float


@dataclass(frozen=True)
class Outputs:
    """Output error of a quantized file against float; a value without a measurement is None.

    samples, unseen  number of samples, and of those used neither for calibration nor for the search
    bound_db   lower bound (dB) of the SQNR expected on new samples, worst output part
    sqnr_db    SQNR of the same part over all samples, dB
    parts      all output parts, in the order of the outputs
    worst      the few samples with most of the noise, if any
    decisions  changed and expected decisions of each output that decides
    selections  share of equal entries of each node that selects, by its name
    sequences  number of sequences of a stateful model, each model with its own states; else None
    checked    samples that were also run without graph optimization (Q/DQ in float)
    optimized_db, unoptimized_db  SQNR of the worst part of the median of these samples, both ways, dB: a
        wrong kernel shows in most samples, a sample that reacts to any rounding is one
    undefined  outputs that have NaN in float, which do not count
    empty      outputs that have no value, or only values with an rms below 1e-6: nothing is known of them
    boxes      agreement of a detector's boxes with the float model's; None for other models
    caches     outputs that the next step takes and adds to, worst first; they are none of the parts, because
        the other outputs show what their errors cost
    uneven     samples far from float of outputs whose values are much smaller there than in other samples
    """

    samples: int
    unseen: int
    bound_db: float | None
    sqnr_db: float | None
    parts: list[PartError]
    worst: list[SampleError]
    decisions: list[DecisionShare]
    selections: dict[str, float]
    sequences: int | None
    checked: int
    optimized_db: float | None
    unoptimized_db: float | None
    undefined: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    uneven: dict[str, int] = field(default_factory=dict)
    caches: list[CacheError] = field(default_factory=list)
    boxes: BoxAgreement | None = None

    @property
    def worst_part(self) -> PartError | None:
        """Return the output part with the lowest bound."""
        return min(self.parts, key=lambda part: part.bound_db, default=None)

    @property
    def suspect(self) -> bool:
        """Tell whether the integer kernels compute something else than the quantized graph."""
        if self.optimized_db is None or self.unoptimized_db is None:
            return False
        return self.optimized_db < min(self.unoptimized_db, CLEAN_DB) - SUSPECT_DB


@dataclass(frozen=True)
class VerificationInputs:
    """Inputs of a comparison between the float model and a quantized file.

    source    file of the float model
    model     its normalized form, with the tensors at which outputs are compared
    samples   all samples in order
    unseen    names of samples used neither for calibration nor for the search
    specs     inputs of the model
    feedback  outputs that are inputs of the next sample
    finite    inputs that must be finite; None allows NaN and infinite values everywhere
    executor  where the models run; a stateful model, or one that draws numbers, runs in this process
    trained   names of samples that weights were trained on: only the spread of their errors counts
    """

    source: Path
    model: ir.Model
    samples: Sequence[Sample]
    unseen: frozenset[str]
    specs: list[InputSpec]
    feedback: Feedback
    finite: Collection[str] | None = ()
    executor: Executor = IN_PROCESS
    trained: frozenset[str] = frozenset()


def inspect_kernels(path: Path, model: ir.Model, plan: Plan, shapes: ShapeByName) -> Kernels:
    """Count the kernels in the optimized graph of a quantized file.

    Args:
        path: the quantized file.
        model: the normalized float model of the plan.
        plan: the quantization plan.
        shapes: static shapes of the float model's values, for the MACs.
    """
    nodes = _optimized(path)
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    integer = _integer_names(nodes)
    macs = {node.name or "": node_macs(node, shapes) for node in nodes_of(model)}
    planned = list(plan.anchors)
    promised = sum(macs[name] for name in planned)
    kept = sum(macs[name] for name in planned if name in integer)
    everything = sum(macs.values())
    return Kernels(
        integer_share=kept / promised if promised else 1.0,
        model_share=sum(count for name, count in macs.items() if name in integer) / everything
        if everything
        else 0.0,
        counts=dict(sorted(counts.items())),
        leftover=counts.get("QuantizeLinear", 0) + counts.get("DequantizeLinear", 0),
        requantizations=_requantizations(nodes),
        fell_back=[name for name in planned if name not in integer],
    )


def integer_nodes(path: Path) -> set[str]:
    """Return the names of the nodes of a file that run in integer kernels, as they were before any fusion."""
    return _integer_names(_optimized(path))


def _optimized(path: Path) -> list[onnx.NodeProto]:
    """Return the nodes of the optimized graph of a file."""
    with ScratchFolder() as folder:
        saved = folder / "optimized.onnx"
        open_session(path, save_optimized=saved)
        return list(_nodes(onnx.load_model(saved, load_external_data=False).graph))


def _integer_names(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    return {name for node in nodes if node.op_type in INTEGER_KERNELS for name in original_names(node.name)}


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Iterate over all nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def original_names(name: str) -> list[str]:
    """Return a node's name without suffixes of the runtime, then the names of nodes joined into it."""
    whole = re.sub(r"(_token_\d+|_nhwc|_nchwc)+$", "", name)
    return [whole, *whole.split(JOINT)] if JOINT in whole else [whole]


def _requantizations(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """List the tensors that are requantized from another scale and zero point."""
    dequantized = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    again = [node for node in nodes if node.op_type == "QuantizeLinear" and node.input[0] in dequantized]
    # the runtime may name the value after the node that computes it
    return [re.sub(r"_(quantized|QuantizeLinear)$", "", node.output[0]) for node in again]


def compare_outputs(path: Path, inputs: VerificationInputs) -> Outputs:
    """Compare a quantized file with the float model, with and without graph optimization.

    One session at a time is open, because each may hold all weights; blocks of samples bound the memory of
    outputs.

    Raises:
        DataError: A sample holds NaN, or an infinite value in an input that must be finite. Outputs computed
        from
            them would count as equal for any file.
    """
    samples, specs = list(inputs.samples), inputs.specs
    seen = DiskList((check_feeds(sample, specs) for sample in evenly(samples, SEEN)), dict.values)
    observation = observe(inputs.model, seen, inputs.feedback)
    # the original file, if only its outputs are compared
    forms = [
        Opened.of(load(inputs.source), observation)
        if observation.plain
        else observation.opened(inputs.model),
        Opened.of(load(path), observation),
    ]
    everything, optimized, written = (Comparison(observation) for _ in range(3))
    compared = Comparison(observation) if inputs.trained else everything
    boxes = BoxTally([value.name or "" for value in inputs.model.graph.outputs])
    states: list[Sequence[Array] | None] = [None, None, None]
    runs = [
        _Verifying(form, observation, inputs.specs, inputs.finite, slot, states)
        for slot, form in enumerate((forms[0], forms[1], forms[1]))
    ]
    done = 0
    while done < len(samples):
        block = _float_values(runs[0], samples[done:], inputs)
        if not done:
            samples = _limited(samples, block, inputs)
        for slot, comparisons in ((1, (everything, optimized)), (2, (written,))):
            part = block if slot == 1 else block[: max(0, CHECKED - done)]
            if not part:
                continue
            found = _results(runs[slot], [(each.sample, each.feeds) for each in part], inputs.executor)
            for number, (one, other) in enumerate(zip(part, found, strict=True), start=done):
                for comparison in comparisons[: 1 + (number < CHECKED)]:
                    comparison.add(one.sample.name, one.values, other.values)
                if slot == 1 and one.sample.name not in inputs.trained:
                    if inputs.trained:
                        compared.add(one.sample.name, one.values, other.values)
                    if boxes.counts:
                        feeds = check_feeds(one.sample, specs) if one.feeds is None else one.feeds
                        boxes.add(one.sample.name, feeds, one.values.own, other.values.own)
            del found
        done += len(block)
    outputs = _outputs(observation, inputs, compared, everything, optimized, written)
    return replace(outputs, boxes=boxes.result())


@dataclass(frozen=True, eq=False)
class _Values:
    """One sample with a form's values.

    feeds  the inputs; None where they stayed in another process
    size   bytes of the inputs and values; an array that occurs twice counts once
    """

    sample: Sample
    feeds: Feeds | None
    values: Observed
    size: int


_Given = tuple[Sample, Feeds | None]
"""A sample, with its feeds where they are loaded."""


@dataclass(frozen=True, eq=False)
class _Verifying(Job[_Given, list[_Values]]):
    """Runs of a form over samples.

    form         the float model or the quantized file
    observation  the compared values
    specs        inputs of the model
    finite       inputs that must be finite, which the float model's runs check; None for no check
    slot         0 for float, 1 for the file with graph optimization, 2 for the file without
    states       outputs of the last run in each slot; they do not travel
    """

    form: Opened
    observation: Observation
    specs: list[InputSpec]
    finite: Collection[str] | None
    slot: int
    states: list[Sequence[Array] | None]

    def __reduce__(self) -> tuple[object, ...]:
        fields = self.form, self.observation, self.specs, self.finite, self.slot, [None, None, None]
        return _Verifying, fields

    def opened(self, threads: int) -> Callable[[Sequence[_Given]], list[_Values]]:
        """Open a session."""
        session = self.observation.session(self.form, optimize=self.slot != 2, threads=threads)
        return lambda items: [self._values(session, *item) for item in items]

    def _values(self, session: ort.InferenceSession, sample: Sample, feeds: Feeds | None) -> _Values:
        if feeds is None:
            feeds = check_feeds(sample, self.specs)
            if self.slot == 0 and self.finite is not None:
                _check_numbers(sample.name, feeds, self.finite)
        given = [(sample.name, feeds)]
        ((_, found),) = run_all(session, self.form, given, self.observation, self.states, self.slot)
        if self.slot == 0:  # they wait for those of the file
            found = detached(found)
        return _Values(sample, feeds, found, array_bytes((*feeds.values(), *found.arrays())))

    def sent(self, item: _Given) -> _Given:
        """Leave out the feeds: the other process loads them."""
        return item[0], None

    def packed(self, result: list[_Values]) -> list[_Values]:
        """Leave out the feeds and the sample's function."""
        return [replace(each, feeds=None, sample=Sample(each.sample.name, dict)) for each in result]


def _results(job: _Verifying, items: Sequence[_Given], executor: Executor) -> Iterator[_Values]:
    """Run a form over samples."""
    run = executor.opened(job, job.observation.workers)
    for (sample, _), found in zip(items, (each for group in run(items) for each in group), strict=True):
        yield replace(found, sample=sample)


def _limited(samples: Sequence[Sample], block: Sequence[_Values], inputs: VerificationInputs) -> list[Sample]:
    """Limit the samples to `MOST_BLOCKS` blocks, unseen samples first; keep all of a stateful model."""
    most = max(LEAST_VERIFIED, MOST_BLOCKS * len(block))
    if inputs.feedback.states or len(samples) <= most:
        return list(samples)
    first = {each.sample.name for each in block}
    rest = [sample for sample in samples if sample.name not in first | inputs.unseen]
    kept = (
        first
        | inputs.unseen
        | {sample.name for sample in evenly(rest, max(1, most - len(first | inputs.unseen)))}
    )
    return [sample for sample in samples if sample.name in kept]


def _float_values(job: _Verifying, samples: Sequence[Sample], inputs: VerificationInputs) -> list[_Values]:
    """Run samples in float until their arrays exceed `HELD_BYTES`."""
    block: list[_Values] = []
    held = 0
    for found in _results(job, [(sample, None) for sample in samples], inputs.executor):
        block.append(found)
        held += found.size
        if held >= HELD_BYTES:
            break
    return block


def _median_db(comparison: Comparison) -> float | None:
    found = [each for each in comparison.outer.sample_db() if each is not None]
    return statistics.median(found) if found else None


def _outputs(
    observation: Observation,
    inputs: VerificationInputs,
    compared: Comparison,
    everything: Comparison,
    optimized: Comparison,
    written: Comparison,
) -> Outputs:
    errors, found = compared.outer, compared.outer.ratios()
    fresh = errors.some([row for row, name in enumerate(compared.names) if name in inputs.unseen])
    kept = bounds(everything.outer, fresh, untrained=errors if inputs.trained else None)
    parts = [PartError(errors.parts[i].name, decibels(found[i]), decibels(kept[i])) for i in errors.measured]
    worst = min(errors.measured, key=lambda i: (-kept[i], i), default=None)
    feedback = observation.feedback
    return Outputs(
        samples=len(compared.names),
        unseen=fresh.samples,
        bound_db=None if worst is None else decibels(kept[worst]),
        sqnr_db=None if worst is None else decibels(found[worst]),
        parts=parts,
        worst=[] if worst is None else heavy_samples(errors, worst, compared.names),
        decisions=decision_shares(compared),
        selections=compared.selected_alike(),
        sequences=sum(name in feedback.starts for name in compared.names) if feedback.states else None,
        checked=len(written.names),
        optimized_db=_median_db(optimized),
        unoptimized_db=_median_db(written),
        undefined=[observation.taps[value].name for value in sorted(errors.undefined)],
        empty=_without_values(errors, observation),
        uneven=_uneven(errors),
        caches=compared.cache_errors(),
    )


def _uneven(errors: OutputErrors) -> dict[str, int]:
    """Return the samples that are far from float by the name of the part, where they are many.

    Samples with large values decide the SQNR over all samples: one branch of an If may hide the other.
    Scores do not count: they are near zero where there is nothing to find.
    """
    signal, noise = errors.powers()
    many = UNEVEN_SHARE * errors.samples
    small = signal < UNEVEN_SIGNAL * signal.mean(axis=0)
    far = {i: int((small & (noise > UNEVEN_NOISE * signal))[:, i].sum()) for i in errors.measured}
    return {errors.parts[i].name: n for i, n in far.items() if n > many and not errors.parts[i].least}


def _without_values(errors: OutputErrors, observation: Observation) -> list[str]:
    """Return the names of the outputs no part of which has a signal in float that counts."""
    measured = {errors.parts[i].value for i in {*errors.measured} - {*errors.faint}}
    compared = dict.fromkeys(part.value for part in errors.parts)
    return [observation.taps[value].name for value in compared if value not in measured | errors.undefined]


def heavy_samples(errors: OutputErrors, part: int, names: Sequence[str]) -> list[SampleError]:
    """Find the samples with half of a part's noise; empty unless they are few."""
    alone, total, result = errors.sample_db(), 0.0, []
    for row, share in errors.heaviest(part):
        own = alone[row]
        result.append(SampleError(names[row], own if own is not None else MAX_DB, share))
        total += share
        if total >= HEAVY:
            break
    return result if len(result) <= max(1, len(names) // MANY) and len(names) > 2 * MANY else []


def decision_shares(comparison: Comparison) -> list[DecisionShare]:
    """Count the changed decisions of each output that decides."""
    taps = comparison.observation.taps
    return [
        DecisionShare(taps[number].name, each.count, each.changed / each.count, each.expected())
        for number, each in comparison.decisions.items()
        if each.count
    ]


def _check_numbers(sample: str, feeds: Feeds, finite: Collection[str]) -> None:
    for name, array in feeds.items():
        if array.dtype.kind != "f":
            continue
        wrong = ~np.isfinite(array) if name in finite else np.isnan(array)
        if wrong.any():
            kind = "NaN or infinite" if name in finite else "NaN"
            raise DataError(
                f"sample {sample}: tensor '{name}' holds {np.count_nonzero(wrong)} {kind} values: remove the "
                "sample, or give --allow-nonfinite"
            )
