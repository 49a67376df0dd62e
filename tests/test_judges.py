"""Who judges: held-out samples from everywhere, and more of them where few cannot tell."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq import judges
from onnxq.fallback import fall_back
from onnxq.hold import DOUBT_DB
from onnxq.job import prepare, scattered
from onnxq.judges import find_references, more_references
from onnxq.metrics import OutputError, noise_shares
from onnxq.options import Method, QuantizeOptions, Technique
from onnxq.pipeline import quantize
from onnxq.references import Judged, References
from tests.conftest import CNN, SAMPLES, normal, parse


@given(st.integers(1, 500), st.integers(0, 60))
def test_one_of_each_neighbourhood(of, count):
    count = min(count, of)
    kept = sorted(scattered(of, count))
    assert len(kept) == count
    assert all(of * i // count <= index < of * (i + 1) // count for i, index in enumerate(kept))


@pytest.mark.parametrize("period", range(2, 11))
def test_data_that_repeat_themselves_are_seen(period):
    """Every eighth sample sees half of ten classes that take turns, and one of eight."""
    assert len({index % period for index in scattered(200, 25)}) > period * 2 / 3


def test_more_judges_where_few_cannot_tell(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("onnxq.hold.more_references", lambda job, few: asked.append(len(few.feeds)) or more_references(job, few))
    options = QuantizeOptions(CNN, SAMPLES / "calib", tmp_path / "out.onnx", give_back=False)
    reached = quantize(options).outputs.sqnr_db
    assert not asked
    monkeypatch.setattr("onnxq.hold.TARGET_DB", reached - DOUBT_DB / 2)
    quantize(replace(options, force=True))
    assert len(asked) == 1


def test_as_many_as_fit_into_memory(tmp_path, monkeypatch):
    job = prepare(QuantizeOptions(CNN, SAMPLES / "calib", tmp_path / "out.onnx"))
    few = find_references(job)
    more = more_references(job, few)
    assert (more.held_out, len(more.feeds)) == (min(len(job.held_out), judges.MORE), min(judges.MORE, len(job.held_out + job.calibration)))
    one = sum(np.asarray(array).nbytes for array in (*few.feeds[0].values(), *few.outer[0]))
    assert few.size >= one * len(few.feeds)
    monkeypatch.setattr(judges, "MOST_BYTES", 20 * (few.size // len(few.feeds)))
    assert len(more_references(job, few).feeds) == 20
    monkeypatch.setattr(judges, "MOST_BYTES", 0)
    assert len(more_references(job, few).feeds) == len(few.feeds)


def judged(noises, signal=1.0):
    error = OutputError(["y"])
    for noise in noises:
        error.add([np.array([signal], np.float32)], [np.array([signal + noise**0.5], np.float32)])
    return error


def test_a_standard_error_says_how_much_chance_there_is():
    assert judged([0.01] * 20).standard_error_db() == pytest.approx(0, abs=1e-3)
    assert judged([0.01]).standard_error_db() == 0  # nothing is known
    rng = np.random.default_rng(0)
    noises = rng.exponential(0.01, 64)
    drawn = [np.mean(rng.choice(noises, 64)) for _ in range(4000)]
    expected = 10 * np.log10(1 + np.std(drawn) / np.mean(noises))
    assert judged(noises).standard_error_db() == pytest.approx(expected, rel=0.05)
    assert judged([0.0] * 15 + [0.16]).standard_error_db() == pytest.approx(10 * np.log10(2), rel=0.02)  # one decision that tipped


def test_the_target_is_held_with_a_standard_error_to_spare(tmp_path, monkeypatch):
    goals, doubts = [], []

    def remember(few, model):
        doubts.append(judged_by(few, model))
        return doubts[-1]

    judged_by = References.judged
    options = QuantizeOptions(CNN, SAMPLES / "calib", tmp_path / "out.onnx", give_back=False)
    monkeypatch.setattr(References, "judged", remember)
    monkeypatch.setattr("onnxq.hold.TARGET_DB", 45.0)
    monkeypatch.setattr("onnxq.choice.fall_back", lambda *args, **more: goals.append(args[4]) or fall_back(*args, **more))
    report = quantize(options)
    assert report.fallback is not None
    assert any(goals[0].target_db == 45.0 + doubt.error_db for doubt in doubts)
    assert goals[0].target_db > 45.0


SHARES = st.lists(st.floats(0, 1), min_size=2, max_size=64)


@given(SHARES)
def test_what_cannot_be_told_apart_is_as_good(shares):
    one = Judged(20, shares=shares)
    assert one.as_good_as(one)
    assert one.as_good_as(Judged(10, shares=[share + 0.1 for share in shares]))
    assert not Judged(10, shares=[share + 0.1 for share in shares]).as_good_as(one)  # worse on each by as much
    by_chance = [*shares, 1.0]  # one more that tipped, of two or more
    assert Judged(10, shares=by_chance).as_good_as(Judged(20, shares=[*shares, 0.0]))
    assert not Judged(-200).as_good_as(one)  # it did not run
    assert not Judged(10, shares=[*shares, float("inf")]).as_good_as(Judged(20, shares=by_chance))


def test_shares_are_those_of_the_ratio():
    rng = np.random.default_rng(0)
    error = OutputError(["a", "unused", "b"])
    for _ in range(7):
        values = [rng.normal(size=size).astype(np.float32) for size in (3, 0, 50)]
        error.add(values, [value + np.float32(0.1) for value in values])
    assert sum(noise_shares(error.samples)) == pytest.approx(10 ** (-error.sqnr_db() / 10))


def settled(tmp_path, monkeypatch, judge, **options):
    """What is chosen where the n-th candidate is judged as `judge(n)` says."""
    judged: list[int] = []
    monkeypatch.setattr(References, "inner_judged", lambda self, model, most=None: judge(judged.append(0) or len(judged)))
    return quantize(QuantizeOptions(CNN, SAMPLES / "calib", tmp_path / "out.onnx", give_back=False, **options))


def closer(n, shares):
    """Closer than those before it in all."""
    return Judged(30 + 0.1 * n, shares=shares)


def by_chance(n):
    """On another sample than the others."""
    return closer(n, [0.001 - 0.0002 * (i == n % 8) - 1e-6 * n for i in range(8)])


def clearly(n):
    """On every sample."""
    return closer(n, [0.001 * 0.9**n] * 8)


def test_of_methods_alike_the_one_that_cuts_off_least(tmp_path, monkeypatch):
    assert settled(tmp_path, monkeypatch, by_chance).method == Method.MINMAX


def test_a_clearly_closer_method_is_kept(tmp_path, monkeypatch):
    report = settled(tmp_path, monkeypatch, clearly)
    assert report.method == max(report.trials, key=lambda trial: trial.sqnr_db).method != Method.MINMAX


@pytest.mark.parametrize("judge", [by_chance, clearly])
def test_a_changed_form_has_to_be_told_from_the_plain_one(tmp_path, monkeypatch, judge):
    report = settled(tmp_path, monkeypatch, judge, method=Method.MSE)
    assert any(Technique.EQUALIZATION in trial.techniques for trial in report.trials)
    assert (Technique.EQUALIZATION in report.techniques) is (judge is clearly)


@pytest.mark.parametrize(("last", "tried"), [("y = Relu(b)", False), ("y = Add(b, w2)", True)])
def test_bias_correction_is_tried_only_where_something_can_take_it(tmp_path, rng, last, tried):
    text = f"g (float[4,16] x) => (float[4,16] y) {{ a = MatMul(x, w0) r = Relu(a) b = MatMul(r, w1) {last} }}"
    onnx.save(parse(text, {"w0": normal(rng, 16, 16), "w1": normal(rng, 16, 16), "w2": normal(rng, 16)}), tmp_path / "m.onnx")
    (tmp_path / "data").mkdir()
    for i in range(16):
        np.save(tmp_path / "data" / f"{i:02}.npy", normal(rng, 4, 16))
    report = quantize(QuantizeOptions(tmp_path / "m.onnx", tmp_path / "data", tmp_path / "o.onnx", give_back=False))
    assert len({trial.techniques for trial in report.trials}) > 1
    assert any(Technique.BIAS_CORRECTION in trial.techniques for trial in report.trials) is tried
