"""Latencies in turns."""

import itertools

from onnxq.runtime.latency import time_in_turns


class Recorded:
    """Fake session that records its runs."""

    def __init__(self, name, runs):
        self.name, self.runs = name, runs

    def run(self, outputs, feeds):
        self.runs.append(self.name)


def test_no_model_runs_twice_in_a_row_and_each_follows_each_other():
    runs = []
    times = time_in_turns([Recorded(name, runs) for name in "abc"], [{}], runs=60, seconds=60.0)
    assert [len(record) for record in times] == [60, 60, 60]
    pairs = list(itertools.pairwise(runs))
    assert all(first != second for first, second in pairs)
    assert len(set(pairs)) == 6
    assert min(pairs.count(pair) for pair in set(pairs)) > 10


def test_one_model_alone():
    runs = []
    assert len(time_in_turns([Recorded("a", runs)], [{}], runs=7, seconds=60.0)[0]) == 7


def test_any_clock_measures():
    """With one thread the clock is that of its CPU time, which stands still while other processes run."""
    ticks = itertools.count()
    times = time_in_turns([Recorded("a", [])], [{}], runs=5, seconds=60.0, clock=lambda: next(ticks) / 2)
    assert times == [[500.0] * 5]
