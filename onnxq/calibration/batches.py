"""Run the float model over samples with inner values as outputs, and pass each run's values on.

Each worker takes a batch, runs it on its share of the cores and measures its values. Several samples
side by side cost less than one sample on all cores, and measuring one overlaps with inferring another.
Memory holds one batch per worker, never the data set.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Generic, Protocol, TypeVar

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds
from onnxq.errors import ModelError
from onnxq.runtime.inner_values import Exposed, expose
from onnxq.runtime.machine import available_cores
from onnxq.runtime.parallel import IN_PROCESS, Executor, Job
from onnxq.runtime.progress import progress
from onnxq.runtime.random_seeds import unseeded_nodes
from onnxq.runtime.sessions import InputSpec, input_specs, open_exposed, run
from onnxq.types import Array, Feeds

BATCH_VALUES = 1 << 20
"""Most fetched values of a batch; samples are run together up to this number."""
LARGEST_BATCH = 32
IN_FLIGHT_BYTES = 256 << 20
"""Most bytes of fetched values in memory at a time; it bounds the number of workers."""
MOST_WORKERS = 8


T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Values of one inference.

    names   the samples, in their order along axis 0
    values  all values by name, the feeds among them
    """

    names: tuple[str, ...]
    values: Feeds

    @property
    def samples(self) -> int:
        """The number of samples."""
        return len(self.names)

    def sample_of(self, row: int, rows: int) -> str:
        """Return the sample that a row of a value belongs to, where the value has `rows` rows."""
        return self.names[row * len(self.names) // max(rows, 1)]


class Measure(Protocol[T]):
    """Measures the values of one inference; a value that can be pickled."""

    def __call__(self, part: Part, position: int) -> T:
        """Measure a part whose first sample has the number `position`; called from several threads."""

    def packed(self, results: Sequence[T]) -> Sequence[T]:
        """Return the results of consecutive parts in the form in which they travel, where it is smaller."""
        return results


@dataclass(frozen=True)
class Pass:
    """A pass over samples.

    samples   all samples, read one by one
    title     of the progress bar
    executor  where the model runs
    shard     (k, n) for the k-th of n parts of the samples; a part is made of whole batches where there are
              enough, so that merged parts are one pass
    """

    samples: Sequence[Sample]
    title: str
    executor: Executor = IN_PROCESS
    shard: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Batch:
    """Consecutive samples that run together, and the number of the first one."""

    start: int
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Measured(Generic[T]):
    """A measured batch: SHA-256 of its samples, their number, and a result for each part."""

    digest: bytes
    count: int
    results: Sequence[T]


@dataclass(frozen=True, eq=False)
class Runs(Job[Batch, list[Measured[T]]]):
    """Runs of a model over batches, with a measurement of the values.

    exposed  the model
    specs    its inputs
    measure  the measurement
    session  an open session with one thread; it does not travel
    """

    exposed: Exposed
    specs: list[InputSpec]
    measure: Measure[T]
    session: list[ort.InferenceSession] = field(default_factory=list)

    def __reduce__(self) -> tuple[object, ...]:
        return Runs, (self.exposed, self.specs, self.measure)

    def opened(self, threads: int) -> Callable[[Sequence[Batch]], list[Measured[T]]]:
        """Open a session; a large model may fill the memory, so that there are never two."""
        if threads > 1:
            self.session.clear()
        opened = self.session.pop() if self.session else None
        session = opened or open_exposed(self.exposed.model, threads=threads, patterns=False)
        return lambda batches: [self._measured(session, batch) for batch in batches]

    def _measured(self, session: ort.InferenceSession, batch: Batch) -> Measured[T]:
        digest, parts = run_batch(session, self.specs, batch.samples, self.exposed)
        results = [self.measure(part, batch.start + i) for i, part in enumerate(parts)]
        return Measured(digest, len(batch.samples), results)

    def packed(self, result: list[Measured[T]]) -> list[Measured[T]]:
        """Pack the results of all batches together."""
        together = iter(self.measure.packed([each for one in result for each in one.results]))
        return [replace(one, results=list(islice(together, len(one.results)))) for one in result]


def observe(
    model: ir.Model,
    names: Sequence[str],
    data: Pass,
    measure: Measure[T],
    add: Callable[[T], None],
) -> bytes:
    """Run all samples, and return a SHA-256 of each batch's contents, one behind the other.

    Args:
        model: the normalized float model.
        names: values to pass on, of the main graph and of bodies, graph inputs among them.
        data: the samples.
        measure: takes each run's values and the index of its first sample; called in any order, from several
            threads at a time, and in other processes.
        add: takes the results of `measure`, in the order of the samples.

    Raises:
        OnnxqError: a sample does not fit the model; errors of `measure` pass through.
    """
    graph_inputs = {value.name for value in model.graph.inputs}
    produced = [name for name in dict.fromkeys(names) if name not in graph_inputs]
    # without values to pass on the model still runs, so that its samples are checked
    exposed = expose(model, produced or [model.graph.outputs[0].name or ""])
    session = open_exposed(exposed.model, threads=1, patterns=False)
    specs, samples, executor = input_specs(session), data.samples, data.executor
    size, workers = 1, 1
    if unseeded_nodes(model):  # random numbers that a model draws depend on the order of its runs
        executor = IN_PROCESS
    else:
        size, workers = batching(session, specs, samples, exposed)
    run = executor.opened(Runs(exposed, specs, measure, [session]), workers)
    del session
    batches = in_shard(len(samples), size, data.shard)
    contents = bytearray()
    with progress(total=sum(map(len, batches)), desc=data.title, unit="sample") as bar:
        for found in run(Batch(batch.start, samples[batch.start : batch.stop]) for batch in batches):
            for each in found:
                contents += each.digest
                for result in each.results:
                    add(result)
                bar.update(each.count)
    return bytes(contents)


def in_shard(count: int, size: int, shard: tuple[int, int] = (1, 1)) -> list[range]:
    """Divide samples into batches, and return those of the k-th of n consecutive parts.

    Args:
        count: number of samples.
        size: samples of a batch.
        shard: (k, n). With fewer batches than parts, the parts are cut between any two samples.
    """
    k, n = shard
    starts = range(0, count, size)
    if len(starts) >= n:
        chosen = starts[len(starts) * (k - 1) // n : len(starts) * k // n]
        return [range(start, min(start + size, count)) for start in chosen]
    first, last = count * (k - 1) // n, count * k // n
    return [range(start, min(start + size, last)) for start in range(first, last, size)]


def run_batch(
    session: ort.InferenceSession, specs: list[InputSpec], batch: Sequence[Sample], exposed: Exposed
) -> tuple[bytes, list[Part]]:
    """Run a batch; return a digest of its samples and the values.

    The values are one part where all samples have the same shapes, otherwise one part per sample.

    Raises:
        OnnxqError: a sample does not fit, or the model fails on it.
    """
    loaded = [check_feeds(sample, specs) for sample in batch]
    content = hashlib.sha256()
    for feeds in loaded:
        for array in feeds.values():
            content.update(array.tobytes() if array.dtype == object else np.ascontiguousarray(array).data)
    alike = len({tuple(array.shape for array in feeds.values()) for feeds in loaded}) == 1
    if alike and len(loaded) > 1:
        together = {key: np.concatenate([one[key] for one in loaded]) for key in loaded[0]}
        return content.digest(), [_part(session, together, batch, exposed)]
    return content.digest(), [
        _part(session, feeds, [sample], exposed) for sample, feeds in zip(batch, loaded, strict=True)
    ]


def _part(session: ort.InferenceSession, feeds: Feeds, samples: Sequence[Sample], exposed: Exposed) -> Part:
    names = tuple(sample.name for sample in samples)
    label = names[0] if len(names) == 1 else f"one of {names[0]} to {names[-1]}"
    fetched = run(session, feeds, label, [output for output, _ in exposed.outputs.values()])
    return Part(names, feeds | exposed.values(fetched))


def batching(
    session: ort.InferenceSession, specs: list[InputSpec], samples: Sequence[Sample], exposed: Exposed
) -> tuple[int, int]:
    """Return how many samples to run together, and how many workers to run side by side."""
    one = _values(session, specs, samples[:1], exposed)
    count = max(1, sum(array.size for array in one))
    size = min(LARGEST_BATCH, BATCH_VALUES // count)
    if size < 2 or len(samples) < 4 or not _batchable(session, specs, samples, exposed):
        size = 1
    room = max(1, IN_FLIGHT_BYTES // (4 * count * size))
    return size, min(available_cores(), MOST_WORKERS, room, -(-len(samples) // size))


def _values(
    session: ort.InferenceSession, specs: list[InputSpec], batch: Sequence[Sample], exposed: Exposed
) -> list[Array]:
    _, parts = run_batch(session, specs, batch, exposed)
    return [parts[0].values[name] for name in exposed.outputs] if len(parts) == 1 else []


def _batchable(
    session: ort.InferenceSession, specs: list[InputSpec], samples: Sequence[Sample], exposed: Exposed
) -> bool:
    """Check that two samples run together give the values of each run alone.

    The first two samples are tried; where their shapes differ, the first one is tried twice.
    """
    if any(not spec.shape or spec.shape[0] is not None for spec in specs):
        return False
    one, two = (_values(session, specs, samples[i : i + 1], exposed) for i in (0, 1))
    try:
        both = _values(session, specs, samples[:2], exposed)
    except ModelError:
        return False
    if not both:  # different shapes: try the first one twice
        two = one
        try:
            both = _values(session, specs, [samples[0], samples[0]], exposed)
        except ModelError:
            return False
    for a, b, ab in zip(one, two, both, strict=True):
        if a.ndim == 0 or a.shape[1:] != b.shape[1:] or ab.shape != (len(a) + len(b), *a.shape[1:]):
            return False
        each = np.concatenate([a, b])
        if not (np.allclose(ab, each, 1e-3, 1e-5) if each.dtype.kind in "fiub" else np.array_equal(ab, each)):
            return False
    return True
