"""Run the float model over samples with inner values as outputs, and pass each run's values on.

Each worker takes a batch, runs it on its share of the cores and measures its values. Several samples
side by side cost less than one sample on all cores, and measuring one overlaps with inferring another.
Memory holds one batch per worker, never the data set. Where the values of one sample are too many, the model
runs in segments, one sample at a time, and the values of one segment are in memory.
"""

import hashlib
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

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
from onnxq.runtime.parallel import in_order
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


K = TypeVar("K", bound=Hashable)
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


@dataclass(frozen=True, eq=False)
class _Stage(Generic[K]):
    """A segment of the model in an open session, or the whole model.

    inputs    values that it takes
    outputs   values that it gives
    requests  requests whose last value it gives
    over      values that nothing needs any more behind it
    """

    session: ort.InferenceSession
    inputs: Sequence[str]
    outputs: Sequence[str]
    requests: Sequence[K]
    over: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class _Run(Generic[K]):
    """The model in open sessions, ready to run over the samples.

    exposed   the model with the requested values as outputs
    specs     its inputs
    stages    run one after the other
    size      number of samples to run together
    workers   number of batches side by side
    """

    exposed: Exposed
    specs: list[InputSpec]
    stages: Sequence[_Stage[K]]
    size: int = 1
    workers: int = 1


def observe(
    model: ir.Model,
    requests: Mapping[K, Sequence[str]],
    samples: Sequence[Sample],
    measure: Callable[[Part, int, K], T],
    add: Callable[[K, T], None],
    title: str,
) -> str:
    """Run all samples, and return a SHA-256 over their contents.

    Args:
        model: the normalized float model.
        requests: by any key, values that are measured together; they are of the main graph and of bodies,
            graph inputs among them.
        samples: read one by one.
        measure: takes a run's values, the index of its first sample and the key of a request whose values
            are there; called in any order and from several threads at a time.
        add: takes a key and the result of `measure`, in the order of the samples.
        title: of the progress bar.

    Raises:
        OnnxqError: a sample does not fit the model; errors of `measure` pass through.
    """
    opened = _opened(model, requests, samples)

    def work(start: int) -> tuple[bytes, list[tuple[K, T]], int]:
        batch = samples[start : start + opened.size]
        content, runs = _loaded(batch, opened.specs)
        results = list[tuple[K, T]]()
        for names, feeds in runs:
            results += _measured(opened, names, feeds, partial(measure_at, start))
            start += len(names)
        return content, results, len(batch)

    def measure_at(position: int, part: Part, key: K) -> T:
        return measure(part, position, key)

    digest = hashlib.sha256()
    with progress(total=len(samples), desc=title, unit="sample") as bar:
        for content, results, count in in_order(work, range(0, len(samples), opened.size), opened.workers):
            digest.update(content)
            for key, result in results:
                add(key, result)
            bar.update(count)
    return digest.hexdigest()


def _opened(model: ir.Model, requests: Mapping[K, Sequence[str]], samples: Sequence[Sample]) -> _Run[K]:
    """Open sessions with the requested values as outputs."""
    given = {value.name for value in model.graph.inputs}
    names = dict.fromkeys(name for each in requests.values() for name in each if name not in given)
    # without values to pass on the model still runs, so that its samples are checked
    exposed = expose(model, list(names) or [model.graph.outputs[0].name or ""])
    specs = model_inputs(exposed.model)
    # random numbers that a model draws depend on the order of its runs
    random = unseeded_nodes(model)
    if not random:
        sizes_of = output_bytes(exposed, check_feeds(samples[0], specs))
        if sum(sizes_of.values()) > IN_FLIGHT_BYTES:
            stages = _in_segments(exposed, sizes_of, requests)
            if len(stages) > 1:
                return _Run(exposed, specs, stages)
    session = open_exposed(exposed.model, threads=1, tuning=UNPLANNED)
    specs = input_specs(session)
    size, workers = (1, 1) if random else batching(session, specs, samples, exposed)
    if workers < available_cores():
        del session  # each may hold all weights: never two at a time
        session = open_exposed(exposed.model, threads=available_cores() // workers, tuning=UNPLANNED)
    return _Run(exposed, specs, [_whole(session, specs, exposed, list(requests))], size, workers)


def _whole(
    session: ort.InferenceSession, specs: list[InputSpec], exposed: Exposed, requests: Sequence[K]
) -> _Stage[K]:
    """Return the whole model as one stage."""
    outputs = list(dict.fromkeys(output for output, _ in exposed.outputs.values()))
    return _Stage(session, [spec.name for spec in specs], outputs, requests)


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


def _in_segments(
    exposed: Exposed, bytes_of: Mapping[str, int], requests: Mapping[K, Sequence[str]]
) -> list[_Stage[K]]:
    """Open the segments of a model; none where the runtime cannot load one of them."""
    segments = split(exposed.model, bytes_of, IN_FLIGHT_BYTES)
    release_freed_memory()
    try:
        sessions = [open_exposed(segment.model, tuning=GIVING_BACK) for segment in segments]
    except ModelError:
        return []
    maker = {name: number for number, segment in enumerate(segments) for name in segment.outputs}
    last = dict(maker)
    last.update(
        (name, number) for number, each in enumerate(segments) for name in each.inputs if name in last
    )
    # requests: behind the last segment that gives one of their values
    ready: list[list[K]] = [[] for _ in segments]
    for key, names in requests.items():
        outputs = [exposed.outputs[name][0] for name in names if name in exposed.outputs]
        number = max((maker[output] for output in outputs), default=0)
        ready[number].append(key)
        last.update((output, max(last[output], number)) for output in outputs)
    over: list[list[str]] = [[] for _ in segments]
    for name, number in last.items():
        over[number].append(name)
    return [
        _Stage(session, segment.inputs, segment.outputs, keys, names)
        for session, segment, keys, names in zip(sessions, segments, ready, over, strict=True)
    ]


def _loaded(
    batch: Sequence[Sample], specs: list[InputSpec]
) -> tuple[bytes, list[tuple[tuple[str, ...], Feeds]]]:
    """Load a batch; return a digest of its samples, and the names and feeds of each inference.

    It is one inference where all samples have the same shapes, otherwise one per sample.

    Raises:
        DataError: a sample does not fit.
    """
    loaded = [check_feeds(sample, specs) for sample in batch]
    digest = hashlib.sha256()
    for feeds in loaded:
        for array in feeds.values():
            digest.update(_content(array))
    names = tuple(sample.name for sample in batch)
    alike = len({tuple(array.shape for array in feeds.values()) for feeds in loaded}) == 1
    if alike and len(loaded) > 1:
        return digest.digest(), [
            (names, {key: np.concatenate([one[key] for one in loaded]) for key in loaded[0]})
        ]
    return digest.digest(), [((name,), feeds) for name, feeds in zip(names, loaded, strict=True)]


def _content(array: Array) -> bytes | memoryview:
    """Return the contents of an array; of strings, whose array holds addresses, each with its length."""
    if array.dtype != object:
        return np.ascontiguousarray(array).data
    texts = [each if isinstance(each, bytes) else str(each).encode() for each in array.reshape(-1)]
    return b"".join(len(text).to_bytes(8, "little") + text for text in texts)


def _measured(
    opened: _Run[K], names: tuple[str, ...], feeds: Feeds, measure: Callable[[Part, K], T]
) -> list[tuple[K, T]]:
    """Run all stages on one inference's feeds, and measure each request as soon as its values are there."""
    label = names[0] if len(names) == 1 else f"one of {names[0]} to {names[-1]}"
    values, results = dict(feeds), list[tuple[K, T]]()
    for stage in opened.stages:
        taken = {name: values[name] for name in stage.inputs}
        values |= zip(stage.outputs, run(stage.session, taken, label, list(stage.outputs)), strict=True)
        del taken
        part = Part(names, feeds | opened.exposed.known(values))
        results += [(key, measure(part, key)) for key in stage.requests]
        del part
        for name in stage.over:
            del values[name]
    return results


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
    """Return all values of samples run together; none where their shapes differ."""
    _, runs = _loaded(batch, specs)
    if len(runs) > 1:
        return []
    ((names, feeds),) = runs
    whole = _Run(exposed, specs, [_whole(session, specs, exposed, [None])])
    ((_, found),) = _measured(
        whole, names, feeds, lambda part, _: [part.values[name] for name in exposed.outputs]
    )
    return found


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
