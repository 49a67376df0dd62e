"""Times of many small models on a machine that also does other things.

Other work and a slow clock only ever make a kernel slower. So the least of several times counts, and a model
is measured again, in rounds with the others in a new random order, until its two least times agree.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from onnxq.graph.scratch import ScratchFolder
from onnxq.profiling.models import random_feeds
from onnxq.runtime.kernel_profile import kernel_times
from onnxq.runtime.progress import progress
from onnxq.runtime.sessions import open_session
from onnxq.types import Feeds

Times = Mapping[str, float]
"""Nanoseconds of all calls in one run, by operator type; of whole runs, by the empty name."""


@dataclass(frozen=True)
class Probe:
    """A model to time.

    name   unique name
    make   builds the model
    wall   time whole runs, not kernels: operators that are too short for the profiler
    exact  a difference to another model counts, so its times must agree more closely
    """

    name: str
    make: Callable[[], ir.Model]
    wall: bool = False
    exact: bool = False


@dataclass(frozen=True)
class Patience:
    """How long a measurement goes on.

    least, most    rounds in which each model, and each model whose times do not agree yet, is measured
    seconds        time after which no further round begins
    agree, closer  ratio of the two least times of a model at most, and of an exact one
    runs, run_seconds  most runs in one turn of a model, and seconds after which a turn ends
    """

    least: int = 3
    most: int = 40
    seconds: float = 180.0
    agree: float = 1.015
    closer: float = 1.007
    runs: int = 15
    run_seconds: float = 0.05


LEAST_RUNS = 5
"""Runs of a model in one turn at least."""
WARM_UP = 3
"""Runs before those that count."""
BATCH = 20
"""Runs that are timed together if whole runs count."""
SLACK_NS = 100.0
"""Difference of two times that is no disagreement, because the profiler counts whole microseconds."""


@dataclass
class Record:
    """Times of one model in all its turns: least time of each operator type, and all sums, ns."""

    least: dict[str, float] = field(default_factory=dict)
    sums: list[float] = field(default_factory=list)

    def add(self, times: Times) -> None:
        """Add one turn."""
        self.least = {name: min(ns, self.least.get(name, ns)) for name, ns in times.items()}
        self.sums.append(sum(times.values()))

    def agrees(self, ratio: float) -> bool:
        """Tell whether the two least sums agree."""
        first, *others = sorted(self.sums)[:2]
        return any(each <= first * ratio + SLACK_NS for each in others)


@dataclass(frozen=True)
class Measured:
    """Result of a measurement.

    times      times of each model, by its name
    rounds     rounds made
    unsettled  models whose two least times do not agree
    """

    times: dict[str, Times]
    rounds: int
    unsettled: int


def measure(probes: Sequence[Probe], threads: int, patience: Patience | None = None) -> Measured:
    """Time models in rounds until their times agree, or until the patience ends."""
    patience = patience or Patience()
    records = {probe.name: Record() for probe in probes}
    left, end, rounds, order = list(probes), time.monotonic() + patience.seconds, 0, random.Random(0)
    with progress(total=len(probes) * patience.least, desc="measuring kernels", unit="model") as bar:
        while left and (rounds < patience.least or (rounds < patience.most and time.monotonic() < end)):
            rounds += 1
            if rounds == patience.least + 1:
                bar.set_description("measuring unsteady kernels again")
            bar.total = max(bar.total, bar.n + len(left))
            order.shuffle(left)
            for probe in left:
                records[probe.name].add(_turn(probe, threads, patience))
                bar.update()
            if rounds >= patience.least:
                left = [each for each in left if not _agrees(records[each.name], each, patience)]
    return Measured({name: record.least for name, record in records.items()}, rounds, len(left))


def _agrees(record: Record, probe: Probe, patience: Patience) -> bool:
    return record.agrees(patience.closer if probe.exact else patience.agree)


def _turn(probe: Probe, threads: int, patience: Patience) -> Times:
    """Time a model in a new session."""
    model = probe.make()
    feeds = random_feeds(model)
    if probe.wall:
        session = open_session(model, threads=threads)
        seconds = _timed(session, feeds, patience, BATCH)
        return {"": min(seconds) / BATCH * 1e9}
    with ScratchFolder() as folder:
        session = open_session(model, threads=threads, profile=folder / "profile")
        _timed(session, feeds, patience, 1)
        calls = kernel_times(session)
    by_node: dict[tuple[str, str], list[float]] = {}
    for call in calls:
        by_node.setdefault((call.op_type, call.node), []).append(call.microseconds * 1e3)
    times: dict[str, float] = {}
    for (op_type, _), each in by_node.items():
        times[op_type] = times.get(op_type, 0.0) + _typical(each[WARM_UP:])
    return times


def _timed(session: ort.InferenceSession, feeds: Feeds, patience: Patience, batch: int) -> list[float]:
    """Run a model a few times; return the seconds of each batch of runs."""
    for _ in range(WARM_UP):
        session.run(None, feeds)
    seconds: list[float] = []
    start = time.perf_counter()
    while len(seconds) < patience.runs:
        before = time.perf_counter()
        for _ in range(batch):
            session.run(None, feeds)
        now = time.perf_counter()
        seconds.append(now - before)
        if len(seconds) >= LEAST_RUNS and now - start > patience.run_seconds:
            break
    return seconds


def _typical(times: Sequence[float]) -> float:
    """Return the mean of the shorter half: the profiler counts whole microseconds, a mean has fractions."""
    return float(np.sort(times)[: (len(times) + 1) // 2].mean())
