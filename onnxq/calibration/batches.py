"""Run the float model over samples with inner values as outputs, and pass each run's values on.

Each worker takes a batch, runs it on its share of the cores and measures its values. Several samples
side by side cost less than one sample on all cores, and measuring one overlaps with inferring another.
Memory holds one batch per worker, never the data set. Where the values of one sample are too many, the model
runs in segments, one sample at a time, and the values of one segment are in memory.
"""

import hashlib
import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Generic, Protocol, TypeVar

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds
from onnxq.errors import ModelError
from onnxq.graph.edit import sizes
from onnxq.graph.macs import concrete_shapes
from onnxq.runtime.inner_values import Exposed, expose
from onnxq.runtime.machine import available_cores
from onnxq.runtime.memory import release_freed_memory
from onnxq.runtime.parallel import IN_PROCESS, Executor, Job
from onnxq.runtime.progress import progress
from onnxq.runtime.random_seeds import unseeded_nodes
from onnxq.runtime.segments import split
from onnxq.runtime.sessions import InputSpec, Tuning, input_specs, model_inputs, open_exposed, run
from onnxq.types import Array, Feeds

BATCH_VALUES = 1 << 20
"""Most fetched values of a batch; samples are run together up to this number."""
LARGEST_BATCH = 32
IN_FLIGHT_BYTES = 128 << 20
"""Most bytes of fetched values in memory at a time, of all workers or of a segment.

Values that a run holds beside them, and those that segments pass on, come on top.
"""
MOST_WORKERS = 8
UNPLANNED, GIVING_BACK = Tuning(patterns=False), Tuning(patterns=False, arena=False)
"""Fetched values take most of a session's memory; the sessions of segments would hold all of them."""


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

    def needs(self) -> Mapping[Hashable, Sequence[str]]:
        """Return the values that are measured together, by any key.

        They are of the main graph and of bodies, graph inputs among them.
        """

    def only(self, keys: Collection[Hashable]) -> "Measure[T]":
        """Return a measurement of some keys alone; by default there is one key."""
        assert len(keys) == len(self.needs()) == 1
        return self

    def joined(self, results: Sequence[T]) -> T:
        """Return the result of the measurements of some keys each, in any order."""
        (result,) = results
        return result

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
    bytes_of  bytes of each output, where all do not fit into memory together; otherwise empty
    session  an open session with one thread; it does not travel
    """

    exposed: Exposed
    specs: list[InputSpec]
    measure: Measure[T]
    bytes_of: Mapping[str, int] = field(default_factory=dict)
    session: list[ort.InferenceSession] = field(default_factory=list)

    def __reduce__(self) -> tuple[object, ...]:
        return Runs, (self.exposed, self.specs, self.measure, self.bytes_of)

    def opened(self, threads: int) -> Callable[[Sequence[Batch]], list[Measured[T]]]:
        """Open a session; a large model may fill the memory, so that there are never two."""
        if self.bytes_of:
            # a segment that the runtime does not load leaves the whole model
            with suppress(ModelError):
                stages = self._stages(threads)
                return lambda batches: [self._measured_in(stages, batch) for batch in batches]
        if threads > 1:
            self.session.clear()
        opened = self.session.pop() if self.session else None
        session = opened or open_exposed(self.exposed.model, threads=threads, tuning=UNPLANNED)
        return lambda batches: [self._measured(session, batch) for batch in batches]

    def _measured(self, session: ort.InferenceSession, batch: Batch) -> Measured[T]:
        digest, parts = run_batch(session, self.specs, batch.samples, self.exposed)
        results = [self.measure(part, batch.start + i) for i, part in enumerate(parts)]
        return Measured(digest, len(batch.samples), results)

    def _stages(self, threads: int) -> list["_Stage[T]"]:
        """Open the segments of the model; each key is measured behind the last one that gives its values."""
        segments = split(self.exposed.model, self.bytes_of, IN_FLIGHT_BYTES)
        release_freed_memory()
        maker = {name: number for number, segment in enumerate(segments) for name in segment.outputs}
        last = dict(maker)
        for number, segment in enumerate(segments):
            last.update((name, number) for name in segment.inputs if name in last)
        keys: list[list[Hashable]] = [[] for _ in segments]
        for key, names in self.measure.needs().items():
            outputs = [self.exposed.outputs[name][0] for name in names if name in self.exposed.outputs]
            number = max((maker[output] for output in outputs), default=0)
            keys[number].append(key)
            last.update((output, max(last[output], number)) for output in outputs)
        return [
            _Stage(
                open_exposed(segment.model, threads=threads, tuning=GIVING_BACK),
                segment.inputs,
                segment.outputs,
                self.measure.only(keys[number]) if keys[number] else None,
                [name for name, end in last.items() if end == number],
            )
            for number, segment in enumerate(segments)
        ]

    def _measured_in(self, stages: Sequence["_Stage[T]"], batch: Batch) -> Measured[T]:
        """Run the stages on each sample, and measure each key as soon as its values are there."""
        digest, loaded = _loaded(self.specs, batch.samples)
        found = []
        for i, (sample, feeds) in enumerate(zip(batch.samples, loaded, strict=True)):
            values, results = dict(feeds), list[T]()
            for stage in stages:
                stage.run(values, sample.name)
                if stage.measure is not None:
                    part = Part((sample.name,), feeds | self.exposed.known(values))
                    results.append(stage.measure(part, batch.start + i))
                    del part
                for name in stage.over:
                    del values[name]
            found.append(self.measure.joined(results) if len(results) > 1 else results[0])
        return Measured(digest, len(batch.samples), found)

    def packed(self, result: list[Measured[T]]) -> list[Measured[T]]:
        """Pack the results of all batches together."""
        together = iter(self.measure.packed([each for one in result for each in one.results]))
        return [replace(one, results=list(islice(together, len(one.results)))) for one in result]


@dataclass(frozen=True, eq=False)
class _Stage(Generic[T]):
    """A segment of the model in an open session.

    inputs   values that it takes
    outputs  values that it gives
    measure  the measurement of the keys whose last value it gives, if there are any
    over     values that nothing needs any more behind it
    """

    session: ort.InferenceSession
    inputs: Sequence[str]
    outputs: Sequence[str]
    measure: Measure[T] | None
    over: Sequence[str]

    def run(self, values: Feeds, sample: str) -> None:
        """Add the outputs to the values."""
        taken = {name: values[name] for name in self.inputs}
        values |= zip(self.outputs, run(self.session, taken, sample, list(self.outputs)), strict=True)


def observe(model: ir.Model, data: Pass, measure: Measure[T], add: Callable[[T], None]) -> bytes:
    """Run all samples, and return a SHA-256 of each batch's contents, one behind the other.

    Args:
        model: the normalized float model.
        data: the samples.
        measure: takes each run's values and the index of its first sample; called in any order, from several
            threads at a time, and in other processes.
        add: takes the results of `measure`, in the order of the samples.

    Raises:
        OnnxqError: a sample does not fit the model; errors of `measure` pass through.
    """
    given = {value.name for value in model.graph.inputs}
    names = dict.fromkeys(name for each in measure.needs().values() for name in each if name not in given)
    # without values to pass on the model still runs, so that its samples are checked
    exposed = expose(model, list(names) or [model.graph.outputs[0].name or ""])
    samples, executor, ordered = data.samples, data.executor, unseeded_nodes(model)
    if ordered:  # random numbers that a model draws depend on the order of its runs
        executor = IN_PROCESS
    job, size, workers = _job(exposed, samples, measure, ordered=bool(ordered))
    run = executor.opened(job, workers)
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


def _job(
    exposed: Exposed, samples: Sequence[Sample], measure: Measure[T], *, ordered: bool
) -> tuple[Runs[T], int, int]:
    """Return the runs of a model, the number of samples to run together, and of batches side by side."""
    specs = model_inputs(exposed.model)
    if not ordered:
        bytes_of = output_bytes(exposed, check_feeds(samples[0], specs))
        whole = sum(bytes_of.values())
        if whole > IN_FLIGHT_BYTES:
            return Runs(exposed, specs, measure, bytes_of), 1, 1
        if whole // 4 > BATCH_VALUES // 2 and all(bytes_of.values()):  # known without a run: one at a time
            return Runs(exposed, specs, measure), 1, _side_by_side(whole, len(samples))
    session = open_exposed(exposed.model, threads=1, tuning=UNPLANNED)
    specs = input_specs(session)
    size, workers = (1, 1) if ordered else batching(session, specs, samples, exposed)
    return Runs(exposed, specs, measure, session=[session]), size, workers


def output_bytes(exposed: Exposed, feeds: Feeds) -> dict[str, int]:
    """Return the bytes of each output of an exposed model for inputs of these shapes; 0 where unknown."""
    wanted = {output for output, _ in exposed.outputs.values()}
    values = [value for value in exposed.model.graph.outputs if value.name in wanted]
    shapes = {value.name or "": sizes(value) for value in values}
    if None in shapes.values():
        shapes |= concrete_shapes(exposed.model, feeds)
    return {
        value.name or "": math.prod(shapes[value.name or ""] or (0,)) * _item_bytes(value.dtype)
        for value in values
    }


def _item_bytes(dtype: ir.DataType | None) -> int:
    """Return the bytes of a value in an array: of a string, those of its address."""
    return 8 if dtype is None or dtype == ir.DataType.STRING else max(1, math.ceil(dtype.itemsize))


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
    content, loaded = _loaded(specs, batch)
    alike = len({tuple(array.shape for array in feeds.values()) for feeds in loaded}) == 1
    if alike and len(loaded) > 1:
        together = {key: np.concatenate([one[key] for one in loaded]) for key in loaded[0]}
        return content, [_part(session, together, batch, exposed)]
    return content, [
        _part(session, feeds, [sample], exposed) for sample, feeds in zip(batch, loaded, strict=True)
    ]


def _loaded(specs: list[InputSpec], batch: Sequence[Sample]) -> tuple[bytes, list[Feeds]]:
    """Load samples; return a digest of their contents, too."""
    loaded = [check_feeds(sample, specs) for sample in batch]
    digest = hashlib.sha256()
    for feeds in loaded:
        for array in feeds.values():
            digest.update(_content(array))
    return digest.digest(), loaded


def _content(array: Array) -> bytes | memoryview:
    """Return the contents of an array; of strings, whose array holds addresses, each with its length."""
    if array.dtype != object:
        return np.ascontiguousarray(array).data
    texts = [each if isinstance(each, bytes) else str(each).encode() for each in array.reshape(-1)]
    return b"".join(len(text).to_bytes(8, "little") + text for text in texts)


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
    return size, _side_by_side(4 * count * size, -(-len(samples) // size))


def _side_by_side(size: int, batches: int) -> int:
    """Return how many batches to run side by side; `size` is the bytes of the fetched values of one."""
    return min(available_cores(), MOST_WORKERS, max(1, IN_FLIGHT_BYTES // size), batches)


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
