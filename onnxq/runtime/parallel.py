"""Work on several items side by side, with the results in order.

A session with one thread per item costs less than one item on all cores: the runtime's threads spin while
they wait for one another, which takes time from everything else on the machine.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from onnxq.runtime.machine import available_cores

S = TypeVar("S")
T = TypeVar("T")


class Job(Protocol[S, T]):
    """Work on items, as a value that can be pickled, so that any process can do it.

    The results of consecutive groups of items, taken in their order, mean the same however the items are
    grouped.
    """

    def opened(self, threads: int) -> Callable[[Sequence[S]], T]:
        """Return the function that works on a group of consecutive items, for several threads at a time.

        Args:
            threads: threads of a session; the results do not depend on them.
        """

    @property
    def keeps_state(self) -> bool:
        """Whether a process does its next items faster, or only then, if it did those at their places before.

        The items of a run are then divided evenly among the processes, and in the same way each time.
        """
        return False

    def sent(self, item: S) -> S:
        """Return an item in the form in which it travels to another process, where it is smaller."""
        return item

    def packed(self, result: T) -> T:
        """Return a result in the form in which it travels back, where it is smaller."""
        return result


Run = Callable[[Iterable[S]], Iterator[T]]
"""An opened job: takes items one by one, and yields the results of groups of them in their order."""


@runtime_checkable
class Executor(Protocol):
    """Does jobs: in this process, or on the workers of a cluster."""

    def opened(self, job: Job[S, T], workers: int) -> Run[S, T]:
        """Open a job.

        Args:
            job: the work.
            workers: most items side by side that fit into the memory of one process.
        """


@dataclass(frozen=True)
class InProcess:
    """Does jobs on threads of this process, item by item; the cores are shared out among the threads."""

    def opened(self, job: Job[S, T], workers: int) -> Run[S, T]:
        """Open a job."""
        work = job.opened(max(1, available_cores() // max(1, workers)))
        return lambda items: in_order(work, ([item] for item in items), workers)


IN_PROCESS = InProcess()


def one_ahead(work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Apply a function to items on a thread, each while the caller uses the result before it.

    An error of an item is raised in its place.
    """
    pending: Future[T] | None = None
    with ThreadPoolExecutor(1) as pool:
        try:
            for item in items:
                before, pending = pending, pool.submit(copy_context().run, work, item)
                if before is not None:
                    yield before.result()
            if pending is not None:
                yield pending.result()
        finally:
            if pending is not None:
                pending.cancel()


def in_order(work: Callable[[S], T], items: Iterable[S], workers: int) -> Iterator[T]:
    """Apply a function to items on threads; yield the results in the order of the items.

    At most one result per worker waits, so memory does not grow with the number of items. An error of an
    item is raised in its place.

    Args:
        work: the function; with several workers it is called from several threads at a time.
        items: read one by one.
        workers: number of threads; with 1 the function runs in the caller's thread.
    """
    if workers <= 1:
        yield from map(work, items)
        return
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
