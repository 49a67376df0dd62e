"""The workers of a cluster as its scheduler knows them: threads, tasks, and which of them stall."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from distributed import Client, Future

from onnxq.errors import OnnxqError, first_line

ANSWERING = 60.0
"""Seconds in which the scheduler has to answer."""
REFRESH = 2.0
"""Seconds for which the list of workers is taken as known."""


@dataclass(eq=False)
class Workers:
    """The workers of a cluster.

    client    the connection
    answering seconds in which the scheduler has to answer
    stalled   time of the last heartbeat of each worker that stalls, by address
    known     threads of each worker when the scheduler was last asked
    """

    client: Client
    answering: float = ANSWERING
    stalled: dict[str, float] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)
    _asked: float | None = None

    def threads(self) -> dict[str, int]:
        """Return the threads of each worker, not older than `REFRESH`: workers come and go.

        Raises:
            OnnxqError: the scheduler does not answer.
        """
        now = time.monotonic()
        if self._asked is None or now - self._asked > REFRESH:
            self.known = dict(self._answer(self.client.scheduler.ncores, workers=None))
            if self.stalled:
                self._forget_awake(self.heartbeats())
            self._asked = now
        return self.known

    def awake(self) -> list[str]:
        """Return the workers that do not stall, sorted; all of them where all stall."""
        there = self.threads()
        return sorted(there.keys() - self.stalled.keys()) or sorted(there)

    def wanted(self) -> list[str] | None:
        """Return the workers that should get work: None for any, unless some stall."""
        return self.awake() if self.stalled else None

    def heartbeats(self) -> dict[str, float]:
        """Return the time of the last heartbeat of each worker, by the scheduler's clock."""
        found = self._answer(self.client.scheduler.identity)["workers"]
        return {worker: state["last_seen"] for worker, state in found.items()}

    def note_stalled(self, before: dict[str, float], now: dict[str, float]) -> bool:
        """Note the workers without a heartbeat in between; return whether these are all, or there is none."""
        self.stalled = {worker: seen for worker, seen in now.items() if seen == before.get(worker)}
        return len(self.stalled) == len(now)

    def _forget_awake(self, now: dict[str, float]) -> None:
        self.stalled = {worker: seen for worker, seen in self.stalled.items() if now.get(worker) == seen}

    def holders(self, futures: Iterable[Future]) -> set[str]:
        """Return the workers that have these tasks, done or not."""
        keys = [future.key for future in futures]
        have = self._answer(self.client.scheduler.who_has, keys=keys)
        working = self._answer(self.client.scheduler.processing, workers=None)
        found = {worker for workers in have.values() for worker in workers}
        return found | {worker for worker, tasks in working.items() if {*keys} & {*tasks}}

    def check_connection(self) -> None:
        """Raise an `OnnxqError` if the scheduler has gone."""
        if self.client.status != "running":
            raise self._lost("the connection is closed")

    def _answer(self, question: Callable[..., Any], **details: Any) -> Any:
        try:
            return self.client.sync(question, callback_timeout=self.answering, **details)
        except (OSError, TimeoutError) as error:
            raise self._lost(
                first_line(error.__cause__ or error) or f"no answer in {self.answering:.0f} s"
            ) from error

    def _lost(self, why: str) -> OnnxqError:
        return OnnxqError(
            f"--cluster: the scheduler no longer answers ({why}): see its log, and start the command again"
        )
