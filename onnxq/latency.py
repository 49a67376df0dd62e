"""Latency of models against one another: run in turns, so that a busy machine slows all alike."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort

from onnxq.model.runtime import open_session
from onnxq.schemes import Feeds

MOST_RUNS, LEAST_RUNS = 200, 5


def medians_ms(paths: Sequence[Path], feeds: Sequence[Feeds], threads: int, seconds: float = 4.0, *, together: bool = True) -> list[float]:
    """Median milliseconds of one inference of each model.

    Args:
        paths: the models.
        feeds: samples, taken in turn.
        threads: of the runtime.
        seconds: after which no further turn begins, but at least five are taken.
        together: models that do not fit into memory side by side are run one after the other instead.
    """
    if not together:
        return [medians_ms([path], feeds, threads, seconds / len(paths))[0] for path in paths]
    sessions = [open_session(path, threads=threads) for path in paths]
    for session in sessions:
        session.run(None, feeds[0])
    return [statistics.median(record) for record in time_in_turns(sessions, feeds, MOST_RUNS, seconds)]


def time_in_turns(sessions: Sequence[ort.InferenceSession], feeds: Sequence[Feeds], runs: int, seconds: float) -> list[list[float]]:
    """Milliseconds of each run of each session; to and fro, for what comes later in a turn finds the machine in another state.

    Args:
        sessions: warm.
        feeds: samples, taken in turn.
        runs: most turns.
        seconds: after which no further turn begins, but at least five are taken.
    """
    times: list[list[float]] = [[] for _ in sessions]
    end = time.perf_counter() + seconds
    for turn in range(runs):
        if turn >= LEAST_RUNS and time.perf_counter() > end:
            break
        order = list(zip(sessions, times, strict=True))
        for session, record in order[::-1] if turn % 2 else order:
            start = time.perf_counter()
            session.run(None, feeds[turn % len(feeds)])
            record.append((time.perf_counter() - start) * 1000)
    return times
