"""Latency of several models, run in turns so that other load slows all of them alike."""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import onnxruntime as ort

from onnxq.runtime.sessions import USUAL, Tuning, open_session, run
from onnxq.types import Feeds

FINE = 1e-6
"""Seconds; a clock of coarser steps cannot time single runs."""
MOST_RUNS, LEAST_RUNS = 200, 5
"""Bounds of the number of turns."""


def medians_ms(
    paths: Sequence[Path],
    feeds: Sequence[Feeds],
    threads: int,
    seconds: float = 4.0,
    *,
    together: bool = True,
    tuning: Tuning = USUAL,
) -> list[float]:
    """Measure the median milliseconds of one inference of each model.

    With one thread these are milliseconds of its CPU time, where the system counts it finely: the thread
    waits for nothing but the processor, and other processes do not count.

    Args:
        paths: the models.
        feeds: samples, used in turn.
        threads: intra-op threads of the runtime.
        seconds: time limit; at least five turns are run.
        tuning: of all sessions.
        together: run in turns; otherwise one after the other, for models too large to be in memory together.
    """
    if not together:
        return [medians_ms([path], feeds, threads, seconds / len(paths), tuning=tuning)[0] for path in paths]
    sessions = [open_session(path, threads=threads, tuning=tuning) for path in paths]
    for session in sessions:
        run(session, feeds[0], "1")  # a run that can be interrupted
    found = time_in_turns(sessions, feeds, MOST_RUNS, seconds, clock_of(threads))
    return [statistics.median(times) for times in found]


def clock_of(threads: int) -> Callable[[], float]:
    """Return the clock for sessions of so many threads: CPU time for one, where it is counted finely."""
    fine = time.get_clock_info("thread_time").resolution <= FINE
    return time.thread_time if threads == 1 and fine else time.perf_counter


def time_in_turns(
    sessions: Sequence[ort.InferenceSession],
    feeds: Sequence[Feeds],
    runs: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Measure the milliseconds of each run of each session, in a new random order each turn.

    The order matters because a run leaves the caches to the next one, and the first run of a turn finds a new
    sample. No session runs twice in a row, which would make it faster than the others: another one runs
    between, and is not timed.

    Args:
        sessions: sessions that have run before.
        feeds: samples, used in turn.
        runs: largest number of turns.
        seconds: time limit; at least five turns are run.
        clock: returns seconds.
    """
    times: list[list[float]] = [[] for _ in sessions]
    order, chance = list(range(len(sessions))), random.Random(0)
    end = time.perf_counter() + seconds
    for turn in range(runs):
        if turn >= LEAST_RUNS and time.perf_counter() > end:
            break
        before = order[-1]
        chance.shuffle(order)
        if turn and order[0] == before != order[-1]:
            sessions[order[-1]].run(None, feeds[(turn - 1) % len(feeds)])
        for i in order:
            start = clock()
            sessions[i].run(None, feeds[turn % len(feeds)])
            times[i].append((clock() - start) * 1000)
    return times
