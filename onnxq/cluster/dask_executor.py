"""Jobs on a Dask cluster: groups of items as tasks, and their results in the order of the items."""

import hashlib
import itertools
import math
import pickle
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence, Sized
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from distributed import Client, Future, KilledWorker, wait

from onnxq.cluster.packing import LEAST_ARRAY, Packed, pack, sendable
from onnxq.cluster.versions import own_versions
from onnxq.cluster.work import Done, Ticket, keep, work_on
from onnxq.cluster.workers import Workers
from onnxq.errors import DataError, OnnxqError, first_line
from onnxq.runtime.parallel import Job, Run
from onnxq.runtime.status import activity

S = TypeVar("S")
T = TypeVar("T")

TASK_SECONDS, GROWTH = 2.0, 4
"""Work of a task to aim at, because a task costs the scheduler a few milliseconds; most growth of a task at a
time."""
MOST_ITEMS, TASKS_PER_THREAD = 64, 3
"""Most items of a task; tasks per thread of the cluster that are submitted, or wait when done, at a time."""
IN_FLIGHT_BYTES = 512 << 20
"""Bytes of submitted items, at most, unless a single one has more."""
PATIENCE, SLOWNESS, ATTEMPTS = 60.0, 20.0, 4
"""Seconds, and multiples of the slowest task so far, after which a task is given to another worker too; most
attempts at a task, at fetching its result, and at hearing from any worker."""
FAILED_SAMPLES = (DataError, OSError, ImportError, AttributeError, pickle.UnpicklingError)
"""Errors of a worker that cannot load a sample as the client can: it sees no such file or module."""


@dataclass(eq=False)
class _Task:
    """A group of items that was submitted.

    items       the items
    size        bytes in which they travel
    with_feeds  whether their samples have travelled with their feeds
    attempts    futures of the same result
    lost        attempts whose workers ended
    unfetched   results that were not fetched in time
    """

    items: list[Any]
    size: int
    with_feeds: bool
    attempts: list[Future]
    lost: int = 0
    unfetched: int = 0


@dataclass(eq=False)
class _Sent:
    """A job on the cluster: the ticket, the job in chunks as futures, and the pace of its tasks."""

    job: Job[Any, Any]
    ticket: Ticket
    chunks: list[Future]
    items: int = 1
    slowest: float = 0.0


@dataclass(eq=False)
class DaskExecutor:
    """Does jobs on the workers of a cluster.

    client      the connection
    with_feeds  whether samples travel with their feeds, because workers cannot load them
    patience    seconds, besides `SLOWNESS` times the slowest task, after which a task gets a second worker
    done        number of items that each worker has done
    """

    client: Client
    with_feeds: bool = False
    patience: float = PATIENCE
    done: Counter[str] = field(default_factory=Counter)
    _chunks: dict[str, Future] = field(default_factory=dict)
    _copies: Iterator[int] = field(default_factory=itertools.count)
    _weighed: bool = False
    _places: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.workers = Workers(self.client)

    def opened(self, job: Job[S, T], workers: int) -> Run[S, T]:
        """Send a job to the cluster; each worker opens it once, with the first item that it gets."""
        del workers  # for the memory of one process
        packed = pack(job)
        sent = _Sent(job, Ticket(packed.digest, own_versions()), self._chunks_of(packed))
        return lambda items: self._results(sent, items)

    def _chunks_of(self, packed: Packed, workers: list[str] | None = None) -> list[Future]:
        """Return a job's arrays and its pickle on the cluster, on these workers if any are given."""
        chunks = [self._kept(digest, arrays, workers) for digest, arrays in packed.chunks]
        content = hashlib.sha256(packed.content).hexdigest()
        return [*chunks, self._kept(content, [packed.content], workers)]

    def _kept(self, digest: str, arrays: Sequence[Any], workers: list[str] | None) -> Future:
        """Return arrays on the cluster, sent once; a worker that dies with them leaves a copy behind.

        With `workers` they are sent again: the worker that has them stalls, and the others cannot fetch them.
        """
        if digest not in self._chunks or workers:
            key = f"onnxq-arrays-{digest}" + (f"-{next(self._copies)}" if workers else "")
            workers = workers or self.workers.wanted()
            with _large_arguments():
                self._chunks[digest] = self.client.submit(
                    keep,
                    sendable(arrays),
                    key=key,
                    workers=workers,
                    allow_other_workers=bool(workers),
                )
        return self._chunks[digest]

    def _results(self, sent: _Sent, items: Iterable[Any]) -> Iterator[Any]:
        """Submit groups of items, a few at a time; yield the results in order."""
        pending = deque[_Task]()
        most = len(items) if isinstance(items, Sized) else None
        try:
            if sent.job.keeps_state:
                pending += self._shares(sent, list(items))
            waiting = iter(() if sent.job.keeps_state else items)
            with activity(self.describe):
                while True:
                    self._fill(sent, waiting, pending, most)
                    if not pending:
                        return
                    for done in self._next(sent, pending):
                        task = pending.popleft()
                        self._note(sent, task, done)
                        yield done.result
        finally:
            self._cancel([future for task in pending for future in task.attempts])

    def _cancel(self, futures: list[Future]) -> None:
        """Cancel tasks, whoever does them; without a scheduler there is nothing to cancel."""
        if futures and self.client.status == "running":
            with suppress(OSError):
                self.client.cancel(futures, force=True)

    def _next(self, sent: _Sent, pending: deque[_Task]) -> list[Done]:
        """Wait for the first task; fetch its result and those of tasks behind it that are done, at once."""
        first = self._finished(sent, pending[0])
        ready = [first]
        for task in islice(pending, 1, None):
            future = next((each for each in task.attempts if each.status == "finished"), None)
            if future is None:
                break
            ready.append(future)

        async def gathered() -> list[Done]:
            return list(await self.client.gather(ready, asynchronous=True))

        if first.status == "finished":
            try:
                return list(self.client.sync(gathered, callback_timeout=self._patience(sent)))
            except Exception:  # a result is lost: each task tries again, and tells its error
                pass
        return [self._result(sent, pending[0])]

    def _threads(self) -> int:
        return max(1, sum(self.workers.threads().values()))

    def _fill(self, sent: _Sent, waiting: Iterator[Any], pending: deque[_Task], most: int | None) -> None:
        """Submit groups until enough are pending."""
        threads = self._threads()
        limit = sent.items if most is None else max(1, min(sent.items, most // (2 * threads)))
        # the first tasks show the pace
        while len(pending) < (TASKS_PER_THREAD if sent.slowest else 1) * threads:
            if pending and sum(task.size for task in pending) > IN_FLIGHT_BYTES:
                return
            group = [sent.job.sent(item) for item in islice(waiting, limit)]
            if not group:
                return
            pending.append(self._submitted(sent, group))

    def _shares(self, sent: _Sent, items: list[Any]) -> Iterator[_Task]:
        """Submit each worker's share of the items; workers keep their places until they end or stall."""
        there = self.workers.awake()
        new = [worker for worker in there if worker not in self._places]
        self._places = [worker for worker in self._places if worker in there] + new
        count = max(1, min(len(self._places), len(items)))
        for place in range(count):
            group = items[place * len(items) // count : (place + 1) * len(items) // count]
            worker = self._places[place] if place < len(self._places) else None
            yield self._submitted(sent, [sent.job.sent(item) for item in group], worker)

    def _submitted(self, sent: _Sent, group: list[Any], worker: str | None = None) -> _Task:
        packed = self._packed(group)
        return _Task(group, packed.size, self.with_feeds, [self._submit(sent, packed, worker)])

    def _packed(self, group: list[Any]) -> Packed:
        """Pickle items, with their samples as functions that load them, or as feeds if those are smaller."""
        if self.with_feeds:
            return pack(group, with_feeds=True)
        try:
            packed = pack(group)
        except (TypeError, AttributeError, pickle.PicklingError):
            self.with_feeds = True
            return pack(group, with_feeds=True)
        if packed.size <= LEAST_ARRAY or self._weighed:
            return packed
        self._weighed = True
        other = pack(group, with_feeds=True)
        self.with_feeds = other.size < packed.size
        return other if self.with_feeds else packed

    def _submit(self, sent: _Sent, packed: Packed, workers: str | list[str] | None = None) -> Future:
        """Submit a group; one of `workers` should do it, but if they can't, another one does."""
        arrays, workers = sendable(packed.arrays), workers or self.workers.wanted()
        with _large_arguments():
            return self.client.submit(
                work_on, sent.ticket, packed.content, *sent.chunks, arrays, pure=False, retries=0,
                workers=workers, allow_other_workers=workers is not None,
            )  # fmt: skip

    def _result(self, sent: _Sent, task: _Task) -> Done:
        """Wait for a task's result; try again where workers are lost, stall, or cannot load samples.

        Raises:
            OnnxqError: the work fails, its workers die or stall, or the network is too slow.
        """
        while True:
            future = self._finished(sent, task)
            task.attempts.remove(future)
            enough = self._patience(sent) * 2**task.unfetched
            try:
                done: Done = future.result(timeout=enough)
                break
            except TimeoutError as error:
                self._note_unfetched(task, enough, error)
                task.attempts.append(self._again(sent, task, [*task.attempts, future]))
                continue
            except (KilledWorker, CancelledError) as error:
                self.workers.check_connection()
                if task.lost >= ATTEMPTS:
                    raise OnnxqError(
                        f"--cluster: {task.lost} workers ended at the same work ({first_line(error)}): "
                        "give them more memory, and see their logs"
                    ) from error
                task.lost += 1
            except FAILED_SAMPLES:
                if task.with_feeds:
                    raise
                self.with_feeds = task.with_feeds = True
            if not task.attempts:
                task.attempts.append(self._submit(sent, self._packed(task.items)))
        return done

    def _note_unfetched(self, task: _Task, seconds: float, error: TimeoutError) -> None:
        """Note a result that was not fetched in time: its worker stalls, or the network is slow.

        Raises:
            OnnxqError: it was so at each attempt, though each had twice the time of the one before.
        """
        task.unfetched += 1
        if task.unfetched >= ATTEMPTS:
            raise OnnxqError(
                f"--cluster: a result was not fetched in {seconds:.0f} s, at attempt {ATTEMPTS}: "
                "the network between the scheduler and its workers, or to this machine, is too slow"
            ) from error

    def _finished(self, sent: _Sent, task: _Task) -> Future:
        """Return the first attempt that ends; a stalled one gets company.

        Raises:
            OnnxqError: no worker is heard from any more.
        """
        before: dict[str, float] | None = None
        unheard, enough = 0, self._patience(sent) / 2  # in the middle of the first wait, heartbeats are noted
        while True:
            try:
                ended = wait(task.attempts, timeout=enough, return_when="FIRST_COMPLETED").done
                return next(future for future in task.attempts if future in ended)
            except CancelledError:  # of an attempt whose arrays are lost
                return next(future for future in task.attempts if future.cancelled())
            except TimeoutError:
                now = self.workers.heartbeats()
            if before is None:
                before = now
                continue
            unheard = unheard + 1 if self.workers.note_stalled(before, now) else 0
            before, enough = now, self._patience(sent)
            if unheard >= ATTEMPTS:
                raise OnnxqError(
                    f"--cluster: no worker was heard from in {enough * unheard:.0f} s: "
                    "they ended or stall: see their logs"
                )
            holders = self.workers.holders(task.attempts)
            only_stalled = holders and holders <= self.workers.stalled.keys()
            if len(task.attempts) < ATTEMPTS or only_stalled:
                task.attempts.append(self._again(sent, task, task.attempts))

    def _patience(self, sent: _Sent) -> float:
        """Return the seconds after which a worker counts as stalled."""
        return self.patience + SLOWNESS * sent.slowest

    def _again(self, sent: _Sent, task: _Task, stalled: list[Future]) -> Future:
        """Submit a task once more, to a worker that has none of these attempts if there is one."""
        have = self.workers.holders(stalled)
        others = [worker for worker in self.workers.awake() if worker not in have]
        if others:
            sent.chunks = self._chunks_of(pack(sent.job), others)
        return self._submit(sent, self._packed(task.items), others or None)

    def _note(self, sent: _Sent, task: _Task, done: Done) -> None:
        """Note the pace of a job, and who does what."""
        self.done[done.worker] += len(task.items)
        sent.slowest = max(sent.slowest, done.seconds)
        pace = TASK_SECONDS * len(task.items) / max(done.seconds, 1e-6)
        sent.items = max(1, min(MOST_ITEMS, GROWTH * sent.items, math.ceil(pace)))
        self._cancel(task.attempts)

    def describe(self) -> str:
        """Say who does what."""
        shares = ", ".join(
            f"{worker.split('://')[-1]}: {count}" for worker, count in sorted(self.done.items())
        )
        threads = sum(self.workers.known.values())
        return f"working on {threads} threads of workers ({shares or 'no item is done yet'})"


@contextmanager
def _large_arguments() -> Iterator[None]:
    """Silence Dask's advice about large arguments: they are the model, and it travels once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sending large graph")
        yield
