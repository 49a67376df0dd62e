"""Run the float model over the samples with the planned tensors as outputs, and measure what comes out.

Each worker takes a sample, runs it on its share of the cores and measures its values: samples run side
by side cost less than one sample on all cores, and measuring one overlaps with inferring the other.
As many samples are in memory as there are workers, never the data set.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from tqdm import tqdm

from onnxq.calibration.batches import Part, batching, cpus, run_batch
from onnxq.calibration.moments import LayerInput, Moments, take_rows
from onnxq.calibration.sketch import Measured, Sketch, measure
from onnxq.calibration.statistics import Statistics
from onnxq.data.source import Sample
from onnxq.errors import DataError
from onnxq.model.runtime import InputSpec, input_specs, open_session
from onnxq.schemes import Floats

COUNTED = 1 << 13
"""Values of a tensor counted a sample; of larger ones an evenly spaced part, min and max of all."""
NONE = np.zeros(0, np.uint16)


@contextmanager
def extra_outputs(model: ir.Model, names: Sequence[str]) -> Iterator[None]:
    """Let the named values leave the graph as outputs, for as long as the context lasts."""
    outputs = model.graph.outputs
    present = {value.name for value in outputs}
    wanted = set(names) - present
    added = [value for node in model.graph for value in node.outputs if value.name in wanted]
    outputs.extend(added)
    try:
        yield
    finally:
        for _ in added:
            outputs.pop()


@dataclass(frozen=True)
class _Found:
    """What is added up in the order of the samples: ranges by tensor, rows by layer input."""

    samples: int
    ranges: dict[str, Measured]
    rows: dict[LayerInput, Floats]


@dataclass
class _Pass:
    """One pass over the samples: the session, what it fetches, and what grows."""

    session: ort.InferenceSession
    specs: list[InputSpec]
    fetched: list[str]
    statistics: Statistics
    samples: int
    chain: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    locks: dict[str, threading.Lock] = field(default_factory=dict)

    def measure_batch(self, batch: Sequence[Sample], position: int) -> tuple[bytes, list[_Found]]:
        """Run and measure a batch; counts are added at once, the rest is returned."""
        content, parts = run_batch(self.session, self.specs, batch, self.fetched)
        return content, [self._measure(part, position + i) for i, part in enumerate(parts)]

    def _measure(self, part: Part, position: int) -> _Found:
        ranges = {}
        for name, sketch in self.statistics.sketches.items():
            values = part.values[name]
            measured = measure(values, stride=_stride(values.size, part.samples), offset=position)
            if measured is None:
                continue
            if not np.isfinite(measured.low) or not np.isfinite(measured.high):
                raise DataError(
                    f"sample {part.label}: tensor '{name}' holds NaN or infinite values: "
                    "remove the sample, or exclude the node that makes them with --exclude"
                )
            with self.locks[name]:
                sketch.count(measured.bins)
            ranges[name] = replace(measured, bins=NONE)
        rows = {}
        for layer in self.statistics.moments:
            count = layer.wanted(self.samples) * part.samples
            rows[layer] = take_rows(layer, part.values[layer.tensor], count, position)
        return _Found(part.samples, ranges, rows)

    def add(self, result: tuple[bytes, list[_Found]]) -> int:
        """Add a batch's results, in order; returns its number of samples."""
        content, found = result
        self.chain.update(content)
        for one in found:
            for name, measured in one.ranges.items():
                self.statistics.sketches[name].add_range(measured)
            for layer, rows in one.rows.items():
                self.statistics.moments[layer].add(rows)
            self.statistics.samples += one.samples
        return sum(one.samples for one in found)


def _stride(size: int, batch: int) -> int:
    # an odd stride, and a start that moves, reach every channel of layouts with even sizes
    return 1 if size <= COUNTED * batch else (size // (COUNTED * batch)) | 1


def collect(
    model: ir.Model,
    names: Sequence[str],
    samples: Sequence[Sample],
    digest: str,
    moments: dict[LayerInput, Moments] | None = None,
    first: int = 0,
) -> Statistics:
    """Statistics of the named values, and moments of the layers' inputs, over the samples.

    Args:
        model: the normalized float model; its outputs are extended while this runs.
        names: values of the main graph, graph inputs among them.
        samples: read one by one.
        digest: SHA-256 of the model file that the statistics belong to.
        moments: those that are wanted, still empty.
        first: number of samples that came before these (in another shard of the same data).

    Raises:
        DataError: a sample does not fit the model, or a value is NaN or infinite.
    """
    statistics = Statistics(digest, sketches={name: Sketch() for name in names}, moments=moments or {})
    graph_inputs = {value.name for value in model.graph.inputs}
    wanted = dict.fromkeys([*names, *(layer.tensor for layer in statistics.moments)])
    produced = [name for name in wanted if name not in graph_inputs]
    with extra_outputs(model, produced):
        session = open_session(model, threads=1)
        specs = input_specs(session)
        # a model without planned tensors is still run: its samples are checked
        fetched = produced or [session.get_outputs()[0].name]
        size, workers = batching(session, specs, samples, fetched)
        if workers < cpus():
            session = open_session(model, threads=cpus() // workers)
    job = _Pass(session, specs, fetched, statistics, len(samples), locks={name: threading.Lock() for name in names})
    pending: deque[Future[tuple[bytes, list[_Found]]]] = deque()
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(samples), desc="calibrate", unit="sample", disable=None) as bar:
        try:
            for start in range(0, len(samples), size):
                pending.append(pool.submit(job.measure_batch, samples[start : start + size], first + start))
                if len(pending) > workers:
                    bar.update(job.add(pending.popleft().result()))
            while pending:
                bar.update(job.add(pending.popleft().result()))
        finally:
            for future in pending:
                future.cancel()
    statistics.data = job.chain.hexdigest()
    return statistics
