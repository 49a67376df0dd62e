"""Run samples, several together where the model allows it."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from onnxq.data.samples import check_feeds
from onnxq.data.source import Sample
from onnxq.errors import ModelError
from onnxq.model.runtime import InputSpec, run
from onnxq.schemes import Array, Feeds

BATCH_VALUES = 1 << 20
"""Samples are run together while a batch has no more fetched values than this."""
LARGEST_BATCH = 32
IN_FLIGHT_BYTES = 256 << 20
"""Fetched values in memory at a time, which bounds the number of workers."""
MOST_WORKERS = 8


@dataclass(frozen=True)
class Part:
    """What one inference gave: how many samples, which, and all values by name (feeds among them)."""

    samples: int
    label: str
    values: Feeds


def run_batch(session: ort.InferenceSession, specs: list[InputSpec], batch: Sequence[Sample], names: list[str]) -> tuple[bytes, list[Part]]:
    """A digest of the samples, and one part if they could be run together, else one each.

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
        return content.digest(), [_part(session, together, len(batch), f"one of {batch[0].name} to {batch[-1].name}", names)]
    return content.digest(), [_part(session, feeds, 1, s.name, names) for s, feeds in zip(batch, loaded, strict=True)]


def _part(session: ort.InferenceSession, feeds: Feeds, samples: int, label: str, names: list[str]) -> Part:
    return Part(samples, label, feeds | dict(zip(names, run(session, feeds, label, names), strict=True)))


def cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batching(session: ort.InferenceSession, specs: list[InputSpec], samples: Sequence[Sample], names: list[str]) -> tuple[int, int]:
    """Samples to run together, and workers to run side by side."""
    one = _values(session, specs, samples[:1], names)
    count = max(1, sum(array.size for array in one))
    size = min(LARGEST_BATCH, BATCH_VALUES // count)
    if size < 2 or len(samples) < 4 or not _batchable(session, specs, samples, names):
        size = 1
    room = max(1, IN_FLIGHT_BYTES // (4 * count * size))
    return size, min(cpus(), MOST_WORKERS, room, -(-len(samples) // size))


def _values(session: ort.InferenceSession, specs: list[InputSpec], batch: Sequence[Sample], names: list[str]) -> list[Array]:
    _, parts = run_batch(session, specs, batch, names)
    return [parts[0].values[name] for name in names] if len(parts) == 1 else []


def _batchable(session: ort.InferenceSession, specs: list[InputSpec], samples: Sequence[Sample], names: list[str]) -> bool:
    """Whether two samples together give what each gives alone; samples of one shape are not asked for."""
    if any(not spec.shape or spec.shape[0] is not None for spec in specs):
        return False
    one, two = (_values(session, specs, samples[i : i + 1], names) for i in (0, 1))
    try:
        both = _values(session, specs, samples[:2], names)
    except ModelError:
        return False
    if not both:  # these two have different shapes: try one of them twice
        two = one
        try:
            both = _values(session, specs, [samples[0], samples[0]], names)
        except ModelError:
            return False
    for a, b, ab in zip(one, two, both, strict=True):
        if a.ndim == 0 or a.shape[1:] != b.shape[1:] or ab.shape != (len(a) + len(b), *a.shape[1:]):
            return False
        if not np.allclose(ab, np.concatenate([a, b]), 1e-3, 1e-5):
            return False
    return True
