"""Latencies in turns."""

import itertools

from onnxq.runtime.latency import time_in_turns


class Recorded:
    """Fake session that records its runs."""

    def __init__(self, name, runs):
        self.name, self.runs = name, runs

    def run(self, outputs, feeds):
        self.runs.append(self.name)


class Feed(Recorded):
    """Fake session that records its runs with their samples."""

    def run(self, outputs, feeds):
        self.runs.append((self.name, feeds["sample"]))


def test_no_model_runs_twice_in_a_row_and_each_follows_each_other():
    runs = []
    times = time_in_turns([Recorded(name, runs) for name in "abc"], [{}], runs=60, seconds=60.0)
    assert [len(record) for record in times] == [60, 60, 60]
    pairs = list(itertools.pairwise(runs))
    assert all(first != second for first, second in pairs)
    assert len(set(pairs)) == 6
    assert min(pairs.count(pair) for pair in set(pairs)) > 10


def test_each_of_two_models_is_as_often_the_first_to_see_a_sample():
    runs = []
    feeds = [{"sample": i} for i in range(3)]
    times = time_in_turns([Feed("a", runs), Feed("b", runs)], feeds, runs=200, seconds=60.0)
    assert [len(record) for record in times] == [200, 200]
    assert all(first[0] != second[0] for first, second in itertools.pairwise(runs))
    first = [after[0] for before, after in itertools.pairwise(runs) if before[1] != after[1]]
    assert len(first) == 199
    assert 80 < first.count("a") < 120


def test_one_model_alone():
    runs = []
    assert len(time_in_turns([Recorded("a", runs)], [{}], runs=7, seconds=60.0)[0]) == 7


def test_any_clock_measures():
    """With one thread the clock is that of its CPU time, which stands still while other processes run."""
    ticks = itertools.count()
    times = time_in_turns([Recorded("a", [])], [{}], runs=5, seconds=60.0, clock=lambda: next(ticks) / 2)
    assert times == [[500.0] * 5]
