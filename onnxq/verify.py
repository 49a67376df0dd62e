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

from onnxq.data.samples import check_feeds
from onnxq.data.source import Sample
from onnxq.errors import DataError
from onnxq.formats.join import JOINT
from onnxq.macs import ShapeByName, node_macs
from onnxq.metrics import OutputError
from onnxq.model.edit import nodes_of
from onnxq.model.runtime import InputSpec, open_session, run
from onnxq.operators import INTEGER_KERNELS
from onnxq.plan import Plan
from onnxq.schemes import Array, Feeds

SUSPECT_DB = 3.0
"""A file this much worse optimized than as written does not compute what it says, ..."""
CLEAN_DB = 40.0
"""... unless it is better than this anyway."""
CHECKED = 4
"""Samples run as written, which is slow: nothing is fused."""
HELD_BYTES = 64 << 20
"""Inputs and float outputs kept in memory while the other file runs."""


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
class Outputs:
    """SQNR in dB over all float outputs; None where nothing could be compared.

    samples, sqnr_db  held-out samples, and the file in the runtime's integer kernels against float
    checked           the first so many of them, over which the file is also run as written:
    optimized_db      on these, in the integer kernels
    unoptimized_db    on these, as written (Q/DQ in float)
    """

    samples: int
    sqnr_db: float | None
    checked: int
    optimized_db: float | None
    unoptimized_db: float | None

    @property
    def suspect(self) -> bool:
        """Whether the integer kernels compute something else than the file says."""
        if self.optimized_db is None or self.unoptimized_db is None:
            return False
        return self.optimized_db < min(self.unoptimized_db, CLEAN_DB) - SUSPECT_DB


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
    integer = {name for node in nodes if node.op_type in INTEGER_KERNELS for name in original_names(node.name)}
    macs = {node.name or "": node_macs(node, shapes) for node in nodes_of(model)}
    planned = list(plan.anchors)
    promised = sum(macs[name] for name in planned)
    kept = sum(macs[name] for name in planned if name in integer)
    everything = sum(macs.values())
    return Kernels(
        integer_share=kept / promised if promised else 1.0,
        model_share=kept / everything if everything else 0.0,
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


def compare_outputs(
    source: Path, path: Path, samples: Sequence[Sample], specs: list[InputSpec], finite: Collection[str] = (), *, allow_nan: bool = False
) -> Outputs:
    """Compare a written file with the float model over some samples, optimized and as written.

    One session is open at a time, for each may hold all weights, and a bounded share of the outputs.

    Raises:
        DataError: a sample holds NaN, or an infinite value in one of the inputs that are to be finite: what they make of the
            outputs would count as right whatever the file gives.
    """
    names = [value.name for value in onnx.load_model(path, load_external_data=False).graph.output]
    everything, optimized, written = (OutputError(names) for _ in range(3))
    done = 0
    while done < len(samples):
        block = _float_outputs(source, samples[done:], specs, None if allow_nan else finite)
        session = open_session(path)
        for index, (feeds, expected) in enumerate(block, start=done):
            found = run(session, feeds, samples[index].name)
            everything.add(expected, found)
            if index < CHECKED:
                optimized.add(expected, found)
        del session
        checked = block[: max(0, CHECKED - done)]
        if checked:
            session = open_session(path, optimize=False)
            for sample, (feeds, expected) in zip(samples[done:], checked, strict=False):
                written.add(expected, run(session, feeds, sample.name))
            del session
        done += len(block)
    return Outputs(len(samples), everything.sqnr_db(), min(CHECKED, len(samples)), optimized.sqnr_db(), written.sqnr_db())


def _float_outputs(
    source: Path, samples: Sequence[Sample], specs: list[InputSpec], finite: Collection[str] | None
) -> list[tuple[Feeds, list[Array]]]:
    """Feeds and outputs of as many samples as fit into `HELD_BYTES`, at least one; without `finite` whatever they hold."""
    session = open_session(source)
    block: list[tuple[Feeds, list[Array]]] = []
    held = 0
    for sample in samples:
        feeds = check_feeds(sample, specs)
        if finite is not None:
            _check_numbers(sample.name, feeds, finite)
        block.append((feeds, run(session, feeds, sample.name)))
        held += sum(array.nbytes for array in (*feeds.values(), *block[-1][1]) if isinstance(array, np.ndarray))
        if held >= HELD_BYTES:
            break
    return block


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
