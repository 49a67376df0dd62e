"""The bound of the output error that new samples keep."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.comparison.bounds import (
    BATCH,
    CHOOSING_SPARE_DB,
    HEAVIEST,
    KEPT,
    LEAST_SPARE_DB,
    NORMAL,
    USUAL_SAMPLES,
    bounds,
    choosing_bounds,
    tail,
)
from onnxq.comparison.errors import OutputErrors, decibels
from onnxq.comparison.parts import Part


def one(noises, signals=None) -> OutputErrors:
    """One value, with the noise power of each sample, and its signal power if not 1."""
    errors = OutputErrors([Part(0, "y")])
    for i, noise in enumerate(noises):
        signal = 1.0 if signals is None else signals[i] ** 0.5
        errors.add([np.array([signal])], [np.array([signal + noise**0.5])])
    return errors


def test_the_bound_keeps_a_margin_where_samples_agree():
    errors = one([0.01] * USUAL_SAMPLES)
    assert decibels(bounds(errors)[0]) == pytest.approx(20 - LEAST_SPARE_DB, abs=0.01)
    quarter = one([0.01] * (USUAL_SAMPLES // 4))
    assert decibels(bounds(quarter)[0]) == pytest.approx(20 - 2 * LEAST_SPARE_DB, abs=0.01)
    chosen = choosing_bounds(quarter, USUAL_SAMPLES)
    assert decibels(chosen[0]) == pytest.approx(20 - CHOOSING_SPARE_DB, abs=0.01)


def test_samples_that_weights_were_trained_on_give_the_margin_but_not_the_level(rng):
    noises = rng.lognormal(0, 0.3, USUAL_SAMPLES) / 100
    untrained = one(2 * noises[:60])
    everything = one([*(2 * noises[:60]), *noises[60:] / 4])
    as_usual = bounds(one(noises))[0]
    assert bounds(everything)[0] < untrained.ratios()[0]
    assert 1.5 * as_usual < bounds(everything, untrained=untrained)[0] < 4 * as_usual
    # few samples that differ much do not tell their own level
    wild = one(rng.exponential(0.02, 6))
    level = wild.ratios()[0] + (NORMAL + 1.52 / 5) * wild.standard_errors()[0]
    assert bounds(one([0.01] * USUAL_SAMPLES), untrained=wild)[0] == pytest.approx(level)


def test_while_files_are_chosen_a_target_keeps_standard_errors(rng):
    noises = np.zeros(USUAL_SAMPLES)
    noises[:4] = rng.exponential(0.5, 4)  # few carry all
    errors = one(noises)
    ratio, error = errors.ratios()[0], errors.standard_errors()[0]
    spare = NORMAL + 1.52 / (USUAL_SAMPLES - 1)  # Student's t
    assert ratio + spare * error > ratio * 10 ** (CHOOSING_SPARE_DB / 10)
    assert choosing_bounds(errors, 0)[0] == pytest.approx(ratio + spare * error)
    assert choosing_bounds(errors, 4 * USUAL_SAMPLES)[0] == pytest.approx(
        ratio + spare * error / 2
    )  # a quarter of the evidence
    few = one(rng.exponential(0.01, 10))
    ten = NORMAL + 1.52 / 9  # of 9 degrees of freedom: 1.81
    assert choosing_bounds(few, 10)[0] == pytest.approx(few.ratios()[0] + ten * few.standard_errors()[0])


@pytest.mark.parametrize(
    ("unseen", "expected"),
    [
        ([0.04, 0.04], 0.04),
        ([0.001], 0.01 * 10 ** (LEAST_SPARE_DB / 10)),
        ([], 0.01 * 10 ** (LEAST_SPARE_DB / 10)),
    ],
)
def test_samples_that_nothing_was_chosen_by_count_where_they_are_worse(unseen, expected):
    assert bounds(one([0.01] * USUAL_SAMPLES), one(unseen))[0] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("spread", [0.5, 1.0, 1.5, 2.0])
def test_new_batches_keep_the_bound(rng, spread):
    """A batch of new samples is as good as the bound, light tail or heavy; most are worse than the mean.

    The heaviest tail is wider than 200 samples tell: there some more batches are worse.
    """
    kept, seen = [], []
    for _ in range(60):
        errors = one(0.01 * rng.lognormal(0, spread, USUAL_SAMPLES))
        batches = 0.01 * rng.lognormal(0, spread, (20, BATCH)).mean(1)
        kept.append(np.mean(batches <= bounds(errors)[0]))
        seen.append(np.mean(batches <= errors.ratios()[0]))
    assert np.mean(kept) > KEPT - (0.02 if spread < 2 else 0.08)
    assert np.mean(seen) < 0.7


def test_the_bound_of_light_tails_is_near(rng):
    """The margin is not wider than it must be: a tail is not invented."""
    errors = one(0.01 * rng.lognormal(0, 0.3, USUAL_SAMPLES))
    assert decibels(errors.ratios()[0]) - decibels(bounds(errors)[0]) == pytest.approx(
        LEAST_SPARE_DB, abs=0.01
    )


def test_the_tail_of_a_power_law_is_found(rng):
    noise = rng.pareto(2.0, 10_000) + 1
    threshold, exponent = tail(noise)
    assert exponent == pytest.approx(0.5, rel=0.2)
    assert np.mean(noise > threshold) == pytest.approx(0.014, abs=0.001)
    assert tail(rng.pareto(0.5, 10_000))[1] == HEAVIEST  # no mean: the exponent stays at the largest one
    assert tail(np.array([1.0, 0, 0, 0, 0])) == (np.inf, 0)


def test_samples_with_more_signal_may_have_more_noise():
    """The ratio of a batch is of its own noise and signal: loud samples are less of a tail."""
    rng = np.random.default_rng(0)
    signals = rng.lognormal(0, 1.5, USUAL_SAMPLES)
    loud, any_signal = one(0.01 * signals, signals), one(0.01 * signals, rng.permutation(signals))
    margins = [decibels(each.ratios()[0]) - decibels(bounds(each)[0]) for each in (loud, any_signal)]
    assert margins[0] < margins[1] - 0.3


def test_a_sequence_counts_as_one_sample():
    """Ten sequences of four samples that are alike say as much as ten samples."""
    noises = np.random.default_rng(0).exponential(0.01, 10)
    errors = OutputErrors([Part(0, "y")])
    for noise in noises:
        for step in range(4):
            errors.add([np.ones(1)], [np.ones(1) + noise**0.5], follows=step > 0)
    assert bounds(errors) == pytest.approx(bounds(one(noises)))


def test_a_part_without_signal_or_with_its_floor_has_a_bound(rng):
    errors = OutputErrors([Part(0, "scores", least=0.01), Part(1, "zero")])
    for each in rng.exponential(0.0001, 100):
        errors.add([np.zeros(4) + 0.001, np.zeros(4)], [np.zeros(4) + 0.001 + each**0.5, np.zeros(4)])
    scores, zero = bounds(errors)
    assert errors.ratios()[0] < scores < 4 * errors.ratios()[0]
    assert zero == 0


def test_what_is_no_number_is_as_bad_as_can_be():
    errors = OutputErrors([Part(0, "x"), Part(1, "y")])
    for i in range(3):
        errors.add([np.ones(1), np.ones(1)], [np.ones(1), np.full(1, np.nan if i == 1 else 1.0)])
    assert [decibels(each) for each in bounds(errors)] == [200, -200]


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=30))
def test_a_bound_is_never_better_than_what_was_seen(noises):
    errors = one(noises)
    assert bounds(errors)[0] >= errors.ratios()[0] * 10 ** (LEAST_SPARE_DB / 10) * (1 - 1e-9)
    assert bounds(errors) == bounds(errors)
