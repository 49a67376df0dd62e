"""Latency of models against one another: run in turns, so that a busy machine slows all alike."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from onnxq.model.runtime import open_session
from onnxq.schemes import Feeds

T = TypeVar("T")
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
    times: list[list[float]] = [[] for _ in sessions]
    for session in sessions:
        session.run(None, feeds[0])
    end = time.perf_counter() + seconds
    for turn in range(MOST_RUNS):
        if turn >= LEAST_RUNS and time.perf_counter() > end:
            break
        for session, record in in_turn(list(zip(sessions, times, strict=True)), turn):
            start = time.perf_counter()
            session.run(None, feeds[turn % len(feeds)])
            record.append((time.perf_counter() - start) * 1000)
    return [statistics.median(record) for record in times]


def in_turn(things: list[T], turn: int) -> list[T]:
    """To and fro: what comes later in a turn finds the machine in another state, by a per cent or two."""
    return things[::-1] if turn % 2 else things
