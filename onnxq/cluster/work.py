"""What a worker does: it opens each job once, and works on groups of items."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from onnxq.cluster.packing import unpack
from onnxq.cluster.versions import check_versions
from onnxq.runtime.blas import one_thread
from onnxq.runtime.memory import reuse_freed_memory
from onnxq.runtime.parallel import Job
from onnxq.types import Array

MOST_OPENED = 4
"""Jobs that a worker keeps open at a time."""


@dataclass(frozen=True)
class Ticket:
    """A job for a worker.

    digest    SHA-256 of the job
    versions  versions of packages that the client has, by name
    """

    digest: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Done:
    """A group of items that is done: the result, the seconds that it took, and the worker's address."""

    result: Any
    seconds: float
    worker: str


@dataclass(frozen=True, eq=False)
class _Opened:
    """An opened job."""

    job: Job[Any, Any]
    work: Callable[[Sequence[Any]], Any]


_opened: "OrderedDict[str, _Opened]" = OrderedDict()
_opening = threading.Lock()


def keep(arrays: list[Array]) -> list[Array]:
    """Return arrays: the task by which a worker holds them for others."""
    return arrays


def work_on(ticket: Ticket, items: bytes, *chunks: list[Array]) -> Done:
    """Work on a group of items; `chunks` are the job's large arrays, its pickle, and the items' large arrays.

    Raises:
        OnnxqError: the worker has other versions, or the work fails.
    """
    *arrays, (content,), own = chunks
    opened = _open(ticket, content.tobytes(), [array for chunk in arrays for array in chunk])
    start = time.perf_counter()
    with one_thread():
        result = opened.job.packed(opened.work(unpack(items, own)))
    return Done(result, time.perf_counter() - start, _address())


def _open(ticket: Ticket, content: bytes, arrays: Sequence[Array]) -> _Opened:
    with _opening:  # the threads of a worker share a session
        if ticket.digest not in _opened:
            check_versions(ticket.versions, _address())
            while len(_opened) >= MOST_OPENED:
                _opened.popitem(last=False)
            reuse_freed_memory()  # Dask's workers would return all of it, after each array
            job: Job[Any, Any] = unpack(content, arrays)
            _opened[ticket.digest] = _Opened(job, job.opened(1))
        _opened.move_to_end(ticket.digest)
        return _opened[ticket.digest]


def _address() -> str:
    from distributed import get_worker

    return str(get_worker().address)
