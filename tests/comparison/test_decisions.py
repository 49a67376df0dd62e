"""Decisions changed by noise: the expected share against the real one."""

import math

import numpy as np
import pytest

from onnxq.comparison.decisions import MAX_DECISIONS, Decisions
from tests.conftest import normal


def added(want, have, axis=-1):
    decisions = Decisions(axis)
    decisions.add(np.asarray(want, np.float32), np.asarray(have, np.float32))
    return decisions


@pytest.mark.parametrize(
    ("classes", "size"), [(2, 0.05), (2, 0.3), (2, 1.0), (5, 0.05), (5, 0.3), (20, 0.05), (20, 0.15)]
)
def test_the_expected_share_is_what_random_noise_changes(rng, classes, size):
    """The share expected from one draw of noise, against the mean over many draws."""
    scores = normal(rng, 1500, classes)
    expected = added(scores, scores + size * normal(rng, *scores.shape)).expected()
    drawn = [
        np.mean((scores + size * normal(rng, *scores.shape)).argmax(1) != scores.argmax(1)) for _ in range(60)
    ]
    assert expected == pytest.approx(np.mean(drawn), rel=0.2)


def test_few_samples_tell_what_counting_does_not(rng):
    """Over 20 samples of 25 decisions, counting varies three times as much as the expected share."""
    expected, counted = [], []
    for _ in range(60):
        scores = normal(rng, 500, 4)
        found = added(scores, scores + 0.03 * normal(rng, 500, 4))
        expected.append(found.expected())
        counted.append(found.changed / found.count)
    assert np.mean(expected) == pytest.approx(np.mean(counted), rel=0.2)
    assert np.std(expected) < np.std(counted) / 2


def test_changed_decisions_are_counted():
    found = added([[1, 2, 3], [3, 2, 1], [0, 5, 1]], [[1, 2, 3], [3, 4, 1], [0, 5, 6]])
    assert (found.changed, found.count) == (2, 3)
    found.add(np.float32([[1, 2]]), np.float32([[2, 1]]))
    assert (found.changed, found.count) == (3, 4)


def test_decisions_lie_along_the_given_axis():
    want = np.float32([[[1, 2], [3, 0]]])  # [1, 2, 2]
    have = np.float32([[[4, 2], [3, 0]]])
    assert (added(want, have, 1).changed, added(want, have, 1).count) == (1, 2)
    assert (added(want, have, 2).changed, added(want, have, 2).count) == (1, 2)
    assert added(want, have, 1).margins[0].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("want", "have", "axis"),
    [
        (np.ones((2, 1)), np.ones((2, 1)), 1),
        (np.ones((2, 3)), np.ones((2, 4)), 1),
        (np.ones(3), np.ones(3), 1),
        (np.ones(3), np.ones(3), -2),
    ],
)
def test_what_cannot_be_decided_is_left_out(want, have, axis):
    found = added(want, have, axis)
    assert (found.count, found.changed, found.expected()) == (0, 0, 0.0)


def test_without_noise_nothing_changes(rng):
    scores = normal(rng, 50, 4)
    assert added(scores, scores).expected() == 0
    shifted = scores + 3 * normal(rng, 50, 1)  # each decision's scores by the same
    assert added(scores, shifted).expected() < 1e-6
    assert added(scores, shifted).changed == 0


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_decision_between_no_numbers_is_expected_to_change(rng, place):
    scores = normal(rng, 50, 4)
    have = scores.copy()
    have[3, np.argsort(-scores[3])[place]] = np.nan
    clean = added(np.delete(scores, 3, 0), np.delete(have, 3, 0))
    found = added(scores, have)
    assert (found.changed, found.expected()) == (clean.changed + 1, 1 / 50)


def test_a_class_that_is_masked_out_decides_nothing(rng):
    scores = normal(rng, 50, 4)
    scores[3, [0, 1, 3]] = -np.inf
    found = added(scores, scores + np.float32(0.01) * normal(rng, 50, 4))
    assert found.changed <= 2
    assert found.expected() < 0.05


def test_of_many_decisions_some_are_looked_at(rng):
    scores = normal(rng, 3, 5, 4 * MAX_DECISIONS)
    found = added(scores, scores + 0.2 * normal(rng, *scores.shape), 1)
    assert found.count == MAX_DECISIONS
    twice = Decisions(1)
    for _ in range(2):
        twice.add(scores, scores)
    assert twice.count == 2 * MAX_DECISIONS


def test_a_margin_of_one_standard_deviation_is_exceeded_in_16_of_100():
    found = added([[2.0, 1.0]] * 4, [[2.0, 2.0], [2.0, 0.0], [3.0, 1.0], [2.0, 2.0]])
    assert found.expected() == pytest.approx(0.5 * math.erfc(1 / math.sqrt(2)))
