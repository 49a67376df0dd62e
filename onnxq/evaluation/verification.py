"""Hold a written file against its promise, in the runtime that is installed.

Which integer kernels really run is read from the graph that the runtime optimized; what they compute
is compared three ways: the float model, the file optimized (integer kernels), the file as written
(Q/DQ in float). Optimized far from unoptimized is a wrong fusion or saturation, and is said.
"""

import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from onnxq.comparison.errors import OutputErrors, PartError, bounds, decibels
from onnxq.comparison.feedback import Feedback, evenly
from onnxq.comparison.metrics import MAX_DB
from onnxq.comparison.observation import SEEN, Comparison, Observation, Observed, Opened, observe, run_all
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds
from onnxq.errors import DataError
from onnxq.formats.joint_products import JOINT
from onnxq.graph.edit import nodes_of
from onnxq.graph.files import load
from onnxq.graph.macs import ShapeByName, node_macs
from onnxq.plan.operators import INTEGER_KERNELS
from onnxq.plan.plan import Plan
from onnxq.runtime.sessions import InputSpec, open_session
from onnxq.types import Array, Feeds

SUSPECT_DB = 3.0
"""A file this much worse optimized than as written does not compute what it says, ..."""
CLEAN_DB = 40.0
"""... unless it is better than this anyway."""
CHECKED = 4
"""Samples run as written, which is slow: nothing is fused."""
HEAVY, MANY = 0.5, 20
"""Samples are named where no more than one in so many carries this share of the noise."""
HELD_BYTES = 64 << 20
"""Inputs and float outputs kept in memory while the other file runs."""
LEAST_VERIFIED, MOST_BLOCKS = 25, 4
"""Samples that are compared whatever they take, and times that both files are opened at most for more of them."""


@dataclass(frozen=True)
class Kernels:
    """What runs, read from the optimized graph.

    integer_share     share of the planned nodes' MACs in integer kernels, 0..1
    model_share       share of all MACs of the model in integer kernels, 0..1
    counts            nodes of the optimized graph by type, the integer kernels among them
    leftover          QuantizeLinear and DequantizeLinear nodes that still run, weights' included
    requantizations   values that pass from one region's parameters to another's
    fell_back         planned nodes with MACs that run in float all the same
    """

    integer_share: float
    model_share: float
    counts: dict[str, int]
    leftover: int
    requantizations: list[str]
    fell_back: list[str]


@dataclass(frozen=True)
class DecisionShare:
    """Decisions of one output for the largest of several values.

    count     how many the samples show
    changed   share of them that the file decides otherwise
    expected  share that noise of this size is expected to change on other samples
    """

    output: str
    count: int
    changed: float
    expected: float


@dataclass(frozen=True)
class SampleError:
    """A sample that is far from float: SQNR of its own worst part, dB, and its share of the noise of the worst part of all."""

    sample: str
    sqnr_db: float
    noise_share: float


@dataclass(frozen=True)
class Outputs:
    """How far the written file's outputs are from float, in the runtime's integer kernels; None where nothing could be compared.

    samples, unseen  how many were compared, and how many of them nothing was made from or chosen by
    bound_db   SQNR of the worst part of the outputs that fresh samples are expected to keep
    sqnr_db    of the same part, over all samples
    parts      every part, in the order of the outputs
    worst      samples that carry most of the noise, where few do
    decisions, selections  what the outputs decide; of the nodes that select, the share of entries that are the same
    sequences  of a stateful model how many were run, each model with its own states; else None
    checked    samples over which the file was also run as written (Q/DQ in float), with the SQNR of the worst part both ways:
    optimized_db, unoptimized_db
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

    @property
    def worst_part(self) -> PartError | None:
        """The part with the least bound."""
        return min(self.parts, key=lambda part: part.bound_db, default=None)

    @property
    def suspect(self) -> bool:
        """Whether the integer kernels compute something else than the file says."""
        if self.optimized_db is None or self.unoptimized_db is None:
            return False
        return self.optimized_db < min(self.unoptimized_db, CLEAN_DB) - SUSPECT_DB


@dataclass(frozen=True)
class Evidence:
    """What a written file is compared on.

    source    the float model's file
    model     its normalized form, which has the places where outputs are judged
    samples   all of them, in their order
    unseen    names of those that nothing was made from or chosen by
    specs     the model's inputs
    feedback  outputs that are the next sample's inputs
    finite    inputs that must not be infinite; None where NaN and infinite values may be anywhere
    """

    source: Path
    model: ir.Model
    samples: Sequence[Sample]
    unseen: frozenset[str]
    specs: list[InputSpec]
    feedback: Feedback
    finite: Collection[str] | None = ()


def inspect_kernels(path: Path, model: ir.Model, plan: Plan, shapes: ShapeByName) -> Kernels:
    """Count what the optimized graph of a written file runs.

    Args:
        path: the quantized file.
        model: the normalized float model that the plan belongs to.
        plan: what was promised.
        shapes: static shapes of the float model's values, for the MACs.
    """
    with tempfile.TemporaryDirectory(prefix="onnxq-") as folder:
        saved = Path(folder) / "optimized.onnx"
        open_session(path, save_optimized=saved)
        nodes = list(_nodes(onnx.load_model(saved, load_external_data=False).graph))
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    integer = {
        name for node in nodes if node.op_type in INTEGER_KERNELS for name in original_names(node.name)
    }
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


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a graph and of the bodies in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def original_names(name: str) -> list[str]:
    """The name that a node had, without what the runtime's rewrites append; then those of the nodes that were joined to it."""
    whole = re.sub(r"(_token_\d+|_nhwc|_nchwc)+$", "", name)
    return [whole, *whole.split(JOINT)] if JOINT in whole else [whole]


def _requantizations(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """Names of the tensors that are quantized from another tensor's integers."""
    dequantized = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    again = [node for node in nodes if node.op_type == "QuantizeLinear" and node.input[0] in dequantized]
    # the runtime may name the value after the node that gives it
    return [re.sub(r"_(quantized|QuantizeLinear)$", "", node.output[0]) for node in again]


def compare_outputs(path: Path, evidence: Evidence) -> Outputs:
    """Compare a written file with the float model, optimized and as written.

    One session is open at a time, for each may hold all weights, and a bounded share of the outputs.

    Raises:
        DataError: a sample holds NaN, or an infinite value in one of the inputs that are to be finite: what they make of the
            outputs would count as right whatever the file gives.
    """
    samples, specs = list(evidence.samples), evidence.specs
    seen = [check_feeds(sample, specs) for sample in evenly(samples, SEEN)]
    observation = observe(evidence.model, seen, evidence.feedback)
    # the file as it came, wherever its outputs are all that is compared
    forms = [
        Opened.of(load(evidence.source), observation)
        if observation.plain
        else observation.opened(evidence.model),
        Opened.of(load(path), observation),
    ]
    everything, optimized, written = (Comparison(observation) for _ in range(3))
    states: list[Sequence[Array] | None] = [None, None, None]
    done = 0
    while done < len(samples):
        block = _float_outputs(forms[0], observation.feedback, samples[done:], evidence, states)
        if not done:
            samples = _affordable(samples, block, evidence)
        for optimize, comparisons in ((True, (everything, optimized)), (False, (written,))):
            part = block if optimize else block[: max(0, CHECKED - done)]
            if not part:
                continue
            session = open_session(forms[1].model, optimize=optimize)
            runs = run_all(
                session,
                forms[1],
                [(name, feeds) for name, feeds, _ in part],
                observation.feedback,
                states,
                2 - optimize,
            )
            for number, ((_, _, expected), (name, found)) in enumerate(
                zip(part, runs, strict=True), start=done
            ):
                for comparison in comparisons[: 1 + (number < CHECKED)]:
                    comparison.add(name, expected, found)
            del session, runs
        done += len(block)
    return _outputs(observation, evidence, everything, optimized, written)


def _affordable(
    samples: Sequence[Sample], block: Sequence[tuple[str, Feeds, Observed]], evidence: Evidence
) -> list[Sample]:
    """All samples, or where a block holds few of them the unseen ones and as many others as a few blocks hold; sequences stay whole."""
    most = max(LEAST_VERIFIED, MOST_BLOCKS * len(block))
    if evidence.feedback.states or len(samples) <= most:
        return list(samples)
    first = {name for name, _, _ in block}
    rest = [sample for sample in samples if sample.name not in first | evidence.unseen]
    kept = (
        first
        | evidence.unseen
        | {sample.name for sample in evenly(rest, max(1, most - len(first | evidence.unseen)))}
    )
    return [sample for sample in samples if sample.name in kept]


def _float_outputs(
    form: Opened,
    feedback: Feedback,
    samples: Sequence[Sample],
    evidence: Evidence,
    states: list[Sequence[Array] | None],
) -> list[tuple[str, Feeds, Observed]]:
    """Name, feeds and float values of as many samples as fit into `HELD_BYTES`, at least one."""
    session = open_session(form.model)
    block: list[tuple[str, Feeds, Observed]] = []
    held = 0
    for sample in samples:
        feeds = check_feeds(sample, evidence.specs)
        if evidence.finite is not None:
            _check_numbers(sample.name, feeds, evidence.finite)
        ((_, found),) = run_all(session, form, [(sample.name, feeds)], feedback, states, 0)
        block.append((sample.name, feeds, found))
        arrays = {
            id(array): array
            for array in (*feeds.values(), *found.own, *found.inner, *found.outer)
            if isinstance(array, np.ndarray)
        }
        held += sum(array.nbytes for array in arrays.values())
        if held >= HELD_BYTES:
            break
    return block


def _outputs(
    observation: Observation,
    evidence: Evidence,
    everything: Comparison,
    optimized: Comparison,
    written: Comparison,
) -> Outputs:
    errors = everything.outer
    fresh = errors.some([row for row, name in enumerate(everything.names) if name in evidence.unseen])
    kept, found = bounds(errors, fresh), errors.ratios()
    parts = [PartError(errors.parts[i].name, decibels(found[i]), decibels(kept[i])) for i in errors.measured]
    worst = min(errors.measured, key=lambda i: (-kept[i], i), default=None)
    feedback = observation.feedback
    return Outputs(
        samples=len(everything.names),
        unseen=fresh.samples,
        bound_db=None if worst is None else decibels(kept[worst]),
        sqnr_db=None if worst is None else decibels(found[worst]),
        parts=parts,
        worst=[] if worst is None else heavy_samples(errors, worst, everything.names),
        decisions=decision_shares(everything),
        selections=everything.selected_alike(),
        sequences=sum(name in feedback.starts for name in everything.names) if feedback.states else None,
        checked=len(written.names),
        optimized_db=optimized.outer.worst_db(),
        unoptimized_db=written.outer.worst_db(),
    )


def heavy_samples(errors: OutputErrors, part: int, names: Sequence[str]) -> list[SampleError]:
    """The samples that carry half of a part's noise, where they are few."""
    alone, total, result = errors.sample_db(), 0.0, []
    for row, share in errors.heaviest(part):
        own = alone[row]
        result.append(SampleError(names[row], own if own is not None else MAX_DB, share))
        total += share
        if total >= HEAVY:
            break
    return result if len(result) <= max(1, len(names) // MANY) and len(names) > 2 * MANY else []


def decision_shares(comparison: Comparison) -> list[DecisionShare]:
    """Of each output that decides."""
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
            what = "NaN or infinite values" if name in finite else "NaN"
            raise DataError(
                f"sample {sample}: tensor '{name}' holds {np.count_nonzero(wrong)} {what}: remove the sample, "
                "or allow it with --allow-nonfinite"
            )
