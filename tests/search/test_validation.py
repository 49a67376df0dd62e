"""Validation samples: held out from all of the data, and more of them where a few cannot decide."""

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.comparison.bounds import CHOOSING_SPARE_DB, NORMAL
from onnxq.comparison.errors import decibels
from onnxq.cost.placement import place
from onnxq.data.split import scattered
from onnxq.normalize.passes import normalize
from onnxq.options import Method, QuantizeOptions, Technique
from onnxq.pipeline import quantize
from onnxq.plan.reasons import MEASURING
from onnxq.search.inputs import prepare
from onnxq.search.mixed_precision import fall_back
from onnxq.search.references import OutputNoise, References
from onnxq.search.settings import SearchSettings
from onnxq.search.validation import find_references, more_references
from tests.conftest import CNN, SAMPLES, normal, parse, to_ir


@given(st.integers(1, 500), st.integers(0, 60))
def test_one_sample_of_each_block(of, count):
    count = min(count, of)
    kept = sorted(scattered(of, count))
    assert len(kept) == count
    assert all(of * i // count <= index < of * (i + 1) // count for i, index in enumerate(kept))


@pytest.mark.parametrize("period", range(2, 11))
def test_periodic_data_are_covered(period):
    """Every eighth sample would contain half of ten alternating classes, and one of eight."""
    assert len({index % period for index in scattered(200, 25)}) > period * 2 / 3


def test_more_samples_where_a_few_cannot_decide(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "onnxq.search.accuracy_target.more_references",
        lambda inputs, few: asked.append(len(few.names)) or more_references(inputs, few),
    )
    options = QuantizeOptions(CNN, SAMPLES / "calib", tmp_path / "out.onnx", skip_slow_nodes=False)
    reached = quantize(options).outputs.sqnr_db
    assert not asked
    settings = SearchSettings(target_db=reached - SearchSettings().more_samples_db / 2)
    quantize(replace(options, force=True), settings=settings)
    assert len(asked) == 1


def test_as_many_samples_as_fit_into_memory(tmp_path):
    inputs = prepare(QuantizeOptions(CNN, SAMPLES / "calib", tmp_path / "out.onnx"))
    few = find_references(inputs)
    more = more_references(inputs, few)
    held_out, most = len(inputs.samples.validation), inputs.settings.more_samples
    assert (more.held_out, len(more.names)) == (
        min(held_out, most),
        min(most, held_out + len(inputs.samples.calibration)),
    )
    one = sum(np.asarray(array).nbytes for array in (*few.feeds[0].values(), *few.expected[0].own))
    assert few.size >= one * len(few.names)
    for most_bytes, samples in ((20 * (few.size // len(few.names)), 20), (0, len(few.names))):
        tight = replace(inputs, settings=replace(inputs.settings, more_samples_bytes=most_bytes))
        assert len(more_references(tight, few).names) == samples


def test_the_target_holds_with_a_margin_of_standard_errors(tmp_path, monkeypatch):
    befores, found = [], []
    judged_by = References.measure

    def remember(few, model, **where):
        found.append(judged_by(few, model, **where))
        return found[-1]

    options = QuantizeOptions(CNN, SAMPLES / "calib", tmp_path / "out.onnx", skip_slow_nodes=False)
    monkeypatch.setattr(References, "measure", remember)
    monkeypatch.setattr(
        "onnxq.search.accuracy_target.fall_back",
        lambda *args, **more: befores.append(args[3]) or fall_back(*args, **more),
    )
    report = quantize(options, settings=SearchSettings(target_db=45.0))
    assert report.fallback.nodes
    assert report.fallback.after_db >= 45.0
    judged = next(each for each in found if each.bound == befores[0])
    samples = np.array(judged.samples)
    error = np.std(samples, axis=0, ddof=1) * len(samples) ** 0.5
    assert decibels(max(samples.sum(0))) - judged.bound_db >= CHOOSING_SPARE_DB - 1e-6
    assert (
        decibels(max(judged.bound))
        <= decibels(max(samples.sum(0) + NORMAL * error * (len(samples) / 200) ** 0.5)) + 0.2
    )  # samples differ in signal too
    assert report.fallback.before_db == judged.bound_db
    after = next(each for each in found if each.bound_db == report.fallback.after_db)
    assert decibels(max(np.sum(after.samples, axis=0))) >= 45.0 + CHOOSING_SPARE_DB - 1e-6


def test_single_nodes_are_measured_without_others_that_are_slow_beside_them(tmp_path, monkeypatch):
    """A node that would return to float, too, because it is alone among float nodes, would add no noise."""
    placed = []

    def remember(plan, *rest):
        placed.append({reason for _, reason in plan.floats.values()})
        return place(plan, *rest)

    monkeypatch.setattr("onnxq.search.accuracy_target.place", remember)
    options = QuantizeOptions(CNN, SAMPLES / "calib", tmp_path / "out.onnx")
    assert quantize(options, settings=SearchSettings(target_db=45.0)).fallback.nodes
    assert placed
    assert not any(MEASURING in reasons for reasons in placed)


SHARES = st.lists(st.floats(0, 1), min_size=2, max_size=64)


def noise_of_samples(shares, *, noise=0.01):
    """Return the noise of one part from the contributions of the samples."""
    return OutputNoise((noise,), samples=[[share] for share in shares])


@given(SHARES)
def test_candidates_within_one_standard_error_are_as_good(shares):
    one = noise_of_samples(shares)
    assert one.as_good_as(one)
    assert one.as_good_as(noise_of_samples([share + 0.1 for share in shares], noise=0.1))
    assert not noise_of_samples([share + 0.1 for share in shares], noise=0.1).as_good_as(
        one
    )  # worse on each by as much
    by_chance = [*shares, 1.0]  # one more that tipped, of two or more
    assert noise_of_samples(by_chance, noise=0.1).as_good_as(noise_of_samples([*shares, 0.0]))
    assert not OutputNoise((math.inf,)).as_good_as(one)  # it did not run
    assert not noise_of_samples([*shares, math.inf]).as_good_as(noise_of_samples(by_chance))


def test_the_worst_part_is_shown_and_the_mean_of_all_is_compared():
    judged = OutputNoise((0.1, 0.001), bound=(0.2, 0.002))
    assert judged.sqnr_db == pytest.approx(10)
    assert judged.bound_db == pytest.approx(10 * np.log10(5))
    assert judged.mean_noise == pytest.approx(0.0505)
    assert OutputNoise((math.inf, 0.001)).sqnr_db == OutputNoise((math.inf,)).bound_db == -200


def test_candidates_are_compared_by_the_mean_over_parts():
    chance = np.random.default_rng(0)
    shares = chance.uniform(0.01, 0.02, (16, 2))
    better = shares - [0.0, 0.005]
    assert not OutputNoise((0.1, 0.1), samples=shares.tolist()).as_good_as(
        OutputNoise((0.1, 0.1), samples=better.tolist())
    )
    moved = (
        shares + np.where(np.arange(16) % 2, 0.005, -0.005)[:, None]
    )  # on some samples more, on others less
    assert OutputNoise((0.1, 0.1), samples=moved.tolist()).as_good_as(
        OutputNoise((0.1, 0.1), samples=shares.tolist())
    )


def search(tmp_path, monkeypatch, noise_of, **options):
    """Return the report of a search in which the n-th candidate has the noise `noise_of(n)`."""
    calls: list[int] = []
    monkeypatch.setattr(
        References,
        "measure_before_softmax",
        lambda self, model, indices=None: noise_of(calls.append(0) or len(calls)),
    )
    return quantize(
        QuantizeOptions(CNN, SAMPLES / "calib", tmp_path / "out.onnx", skip_slow_nodes=False, **options)
    )


def closer(n, shares):
    """Return less noise in total than the candidates before."""
    return noise_of_samples(shares, noise=10 ** (-3 - 0.01 * n))


def by_chance(n):
    """Return less noise on one sample, another for each candidate."""
    return closer(n, [0.001 - 0.0002 * (i == n % 8) - 1e-6 * n for i in range(8)])


def clearly(n):
    """Return less noise on every sample."""
    return closer(n, [0.001 * 0.9**n] * 8)


def test_of_equal_methods_the_one_that_clips_least_is_kept(tmp_path, monkeypatch):
    assert search(tmp_path, monkeypatch, by_chance).method == Method.MINMAX


def test_a_clearly_closer_method_is_kept(tmp_path, monkeypatch):
    report = search(tmp_path, monkeypatch, clearly)
    assert report.method == max(report.trials, key=lambda trial: trial.sqnr_db).method != Method.MINMAX


@pytest.mark.parametrize("judge", [by_chance, clearly])
def test_a_rewritten_form_has_to_be_clearly_better_than_the_plain_one(tmp_path, monkeypatch, judge):
    report = search(tmp_path, monkeypatch, judge, method=Method.MSE)
    assert any(Technique.EQUALIZATION in trial.techniques for trial in report.trials)
    assert (Technique.EQUALIZATION in report.techniques) is (judge is clearly)


@pytest.mark.parametrize(("last", "tried"), [("y = Relu(b)", False), ("y = Add(b, w2)", True)])
def test_bias_correction_is_tried_only_where_something_can_take_it(tmp_path, rng, last, tried):
    text = (
        f"g (float[4,16] x) => (float[4,16] y) {{ a = MatMul(x, w0) r = Relu(a) b = MatMul(r, w1) {last} }}"
    )
    onnx.save(
        parse(text, {"w0": normal(rng, 16, 16), "w1": normal(rng, 16, 16), "w2": normal(rng, 16)}),
        tmp_path / "m.onnx",
    )
    (tmp_path / "data").mkdir()
    for i in range(16):
        np.save(tmp_path / "data" / f"{i:02}.npy", normal(rng, 4, 16))
    report = quantize(
        QuantizeOptions(tmp_path / "m.onnx", tmp_path / "data", tmp_path / "o.onnx", skip_slow_nodes=False)
    )
    assert len({trial.techniques for trial in report.trials}) > 1
    assert any(Technique.BIAS_CORRECTION in trial.techniques for trial in report.trials) is tried


def test_logits_are_compared_with_their_own_signal(rng, tmp_path):
    """One output has two signals: large logits in front of its Softmax, small shares behind it."""
    text = "g (float[1,8] x) => (float[1,40] y) { h = MatMul(x, w) y = Softmax(h) }"
    weights = normal(rng, 8, 40)
    model, off = (parse(text, {"w": array}) for array in (weights, weights * np.float32(1.1)))
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "data").mkdir()
    for i in range(20):
        np.save(tmp_path / "data" / f"{i:02}.npy", normal(rng, 1, 8))
    inputs = prepare(QuantizeOptions(tmp_path / "model.onnx", tmp_path / "data", tmp_path / "out.onnx"))
    references = find_references(inputs)
    assert references.measure_before_softmax(normalize(to_ir(off))).sqnr_db == pytest.approx(20, abs=0.5)
