"""Run the float model over the samples with the planned tensors as outputs, and sketch what comes out.

Each worker takes a sample, runs it on its share of the cores and counts its values: samples run side
by side cost less than one sample on all cores, and counting one overlaps with inferring the other.
As many samples are in memory as there are workers, never the data set.
"""

import hashlib
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from tqdm import tqdm

from onnxq.calibration.sketch import Measured, Sketch, measure
from onnxq.calibration.statistics import Statistics
from onnxq.data.samples import check_feeds
from onnxq.data.source import Sample
from onnxq.errors import DataError, ModelError
from onnxq.model.runtime import InputSpec, input_specs, open_session, run
from onnxq.schemes import Array, Feeds

COUNTED = 1 << 13
"""Values of a tensor counted a sample; of larger ones an evenly spaced part, min and max of all."""
BATCH_VALUES = 1 << 20
"""Samples are run together while a batch has no more planned values than this."""
LARGEST_BATCH = 32
IN_FLIGHT_BYTES = 256 << 20
"""Planned values in memory at a time, which bounds the number of workers."""
MOST_WORKERS = 8
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


@dataclass
class _Pass:
    """One pass over the samples: the session, what it fetches, and the sketches that grow."""

    session: ort.InferenceSession
    specs: list[InputSpec]
    fetched: list[str]
    sketches: dict[str, Sketch]
    locks: dict[str, threading.Lock] = field(default_factory=dict)

    def measure_batch(self, batch: Sequence[Sample], position: int) -> tuple[bytes, dict[str, Measured]]:
        """Run a batch and count its values; returns its digest and ranges, to be added in order."""
        feeds, arrays = _run_batch(self.session, self.specs, batch, self.fetched)
        found: Feeds = feeds | dict(zip(self.fetched, arrays, strict=True))
        content = hashlib.sha256()
        for spec in self.specs:
            array = feeds[spec.name]
            content.update(array.tobytes() if array.dtype == object else np.ascontiguousarray(array).data)
        ranges = {}
        for name, sketch in self.sketches.items():
            measured = measure(found[name], stride=_stride(found[name].size, len(batch)), offset=position)
            if measured is None:
                continue
            if not np.isfinite(measured.low) or not np.isfinite(measured.high):
                which = batch[0].name if len(batch) == 1 else f"one of {batch[0].name} to {batch[-1].name}"
                raise DataError(
                    f"sample {which}: tensor '{name}' holds NaN or infinite values: "
                    "remove the sample, or exclude the node that makes them with --exclude"
                )
            with self.locks[name]:
                sketch.count(measured.bins)
            ranges[name] = replace(measured, bins=NONE)
        return content.digest(), ranges


def _stride(size: int, batch: int) -> int:
    # an odd stride, and a start that moves, reach every channel of layouts with even sizes
    return 1 if size <= COUNTED * batch else (size // (COUNTED * batch)) | 1


def collect(model: ir.Model, names: Sequence[str], samples: Sequence[Sample], digest: str, first: int = 0) -> Statistics:
    """Statistics of the named values over the samples.

    Args:
        model: the normalized float model; its outputs are extended while this runs.
        names: values of the main graph, graph inputs among them.
        samples: read one by one.
        digest: SHA-256 of the model file that the statistics belong to.
        first: number of samples that came before these (in another shard of the same data).

    Raises:
        DataError: a sample does not fit the model, or a value is NaN or infinite.
    """
    statistics = Statistics(digest, sketches={name: Sketch() for name in names})
    graph_inputs = {value.name for value in model.graph.inputs}
    produced = [name for name in names if name not in graph_inputs]
    with extra_outputs(model, produced):
        session = open_session(model, threads=1)
        specs = input_specs(session)
        # a model without planned tensors is still run: its samples are checked
        fetched = produced or [session.get_outputs()[0].name]
        size, workers = _batching(session, specs, samples, fetched)
        if workers < _cpus():
            session = open_session(model, threads=_cpus() // workers)
    job = _Pass(session, specs, fetched, statistics.sketches, {name: threading.Lock() for name in names})
    chain = hashlib.sha256()
    pending: deque[tuple[int, Future[tuple[bytes, dict[str, Measured]]]]] = deque()
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(samples), desc="calibrate", unit="sample", disable=None) as bar:
        for start in range(0, len(samples), size):
            batch = samples[start : start + size]
            pending.append((len(batch), pool.submit(job.measure_batch, batch, first + start)))
            if len(pending) > workers:
                _finish(pending, statistics, chain, bar)
        while pending:
            _finish(pending, statistics, chain, bar)
    statistics.data = chain.hexdigest()
    return statistics


def _finish(
    pending: "deque[tuple[int, Future[tuple[bytes, dict[str, Measured]]]]]",
    statistics: Statistics,
    chain: "hashlib._Hash",
    bar: "tqdm[Any]",
) -> None:
    """Wait for the oldest batch, so that what depends on the order is added in order."""
    count, future = pending.popleft()
    try:
        content, ranges = future.result()
    except BaseException:
        for _, other in pending:
            other.cancel()
        raise
    chain.update(content)
    for name, measured in ranges.items():
        statistics.sketches[name].add_range(measured)
    statistics.samples += count
    bar.update(count)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_batch(
    session: ort.InferenceSession, specs: list[InputSpec], batch: Sequence[Sample], names: list[str]
) -> tuple[Feeds, list[Array]]:
    """The feeds of a batch and the values of `names`; samples of different shapes are run one by one."""
    loaded = [check_feeds(sample, specs) for sample in batch]
    if len(loaded) == 1:
        return loaded[0], run(session, loaded[0], batch[0].name, names)
    if len({tuple(array.shape for array in feeds.values()) for feeds in loaded}) == 1:
        feeds = {key: np.concatenate([one[key] for one in loaded]) for key in loaded[0]}
        return feeds, run(session, feeds, f"{batch[0].name} to {batch[-1].name}", names)
    apart = [run(session, feeds, sample.name, names) for sample, feeds in zip(batch, loaded, strict=True)]
    flat = {key: np.concatenate([one[key].reshape(-1) for one in loaded]) for key in loaded[0]}
    return flat, [np.concatenate([array.reshape(-1) for array in arrays]) for arrays in zip(*apart, strict=True)]


def _batching(session: ort.InferenceSession, specs: list[InputSpec], samples: Sequence[Sample], names: list[str]) -> tuple[int, int]:
    """Samples to run together, and workers to run side by side."""
    _, one = _run_batch(session, specs, samples[:1], names)
    values = max(1, sum(array.size for array in one))
    size = min(LARGEST_BATCH, BATCH_VALUES // values)
    if size < 2 or len(samples) < 4 or not _batchable(session, specs, samples, names, one):
        size = 1
    room = max(1, IN_FLIGHT_BYTES // (4 * values * size))
    batches = -(-len(samples) // size)
    return size, min(_cpus(), MOST_WORKERS, room, batches)


def _batchable(
    session: ort.InferenceSession, specs: list[InputSpec], samples: Sequence[Sample], names: list[str], one: list[Array]
) -> bool:
    """Whether two samples together give what each gives alone."""
    if any(not spec.shape or spec.shape[0] is not None for spec in specs):
        return False
    _, two = _run_batch(session, specs, samples[1:2], names)
    try:
        _, both = _run_batch(session, specs, samples[:2], names)
    except ModelError:
        return False
    for a, b, ab in zip(one, two, both, strict=True):
        if a.ndim == 0 or a.shape[1:] != b.shape[1:] or ab.shape != (len(a) + len(b), *a.shape[1:]):
            return False
        if not np.allclose(ab, np.concatenate([a, b]), 1e-3, 1e-5):
            return False
    return True
