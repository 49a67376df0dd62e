"""Models are measured again until their times agree; the least time counts."""

from functools import partial

import pytest

from onnxq.profiling import measurement
from onnxq.profiling.device import tiny
from onnxq.profiling.measurement import Patience, Probe, Record, measure

PROBES = [
    Probe("steady", partial(tiny, 1)),
    Probe("noisy", partial(tiny, 1)),
    Probe("never", partial(tiny, 1)),
]


def test_times_agree_if_the_two_least_do():
    record = Record()
    record.add({"Conv": 2e6, "Add": 1e5})
    assert not record.agrees(1.05)
    record.add({"Conv": 1e6, "Add": 2e5})
    assert not record.agrees(1.05)
    record.add({"Conv": 1.01e6, "Add": 2e5})
    assert record.agrees(1.05)
    assert record.least == {"Conv": 1e6, "Add": 1e5}


def test_only_models_whose_times_disagree_are_measured_again(monkeypatch):
    turns = {"steady": [5e6] * 9, "noisy": [9e6, 7e6, 6e6, 4e6, 4e6], "never": [2e6 / 2**i for i in range(9)]}

    def turn(probe, _threads, _patience):
        return {"Conv": turns[probe.name].pop(0)}

    monkeypatch.setattr(measurement, "_turn", turn)
    found = measure(PROBES, 1, Patience(least=2, most=7))
    assert found.times == {"steady": {"Conv": 5e6}, "noisy": {"Conv": 4e6}, "never": {"Conv": 2e6 / 2**6}}
    assert (found.rounds, found.unsettled) == (7, 1)
    assert [len(each) for each in turns.values()] == [7, 0, 2]


def test_no_round_begins_after_the_time_is_up(monkeypatch):
    monkeypatch.setattr(measurement, "_turn", lambda probe, *_: {"Conv": float(len(probe.name))})
    assert measure(PROBES, 1, Patience(least=3, seconds=0.0)).rounds == 3


@pytest.mark.parametrize("wall", [False, True])
def test_a_turn_times_kernels_or_whole_runs(wall):
    probe = Probe("tiny", partial(tiny, 4), wall=wall)
    found = measure([probe], 1, Patience(least=1, most=1, runs=5))
    assert found.times["tiny"].keys() == ({""} if wall else {"Neg", "Floor"})
    assert min(found.times["tiny"].values()) > 0
