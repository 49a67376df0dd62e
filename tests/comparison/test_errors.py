"""Noise against signal, part by part and sample by sample."""

import numpy as np
import pytest

from onnxq.comparison.errors import OutputErrors, decibels
from onnxq.comparison.parts import Part
from onnxq.errors import ModelError
from onnxq.evaluation.verification import heavy_samples
from tests.conftest import normal

TWO = [
    Part(0, "y[:, 0:4]", ((1, slice(0, 4)),), sizes=((1, 6),)),
    Part(0, "y[:, 4:6]", ((1, slice(4, 6)),), sizes=((1, 6),)),
]


def one(noises, signal=1.0) -> OutputErrors:
    """One value, with the noise power of each sample."""
    errors = OutputErrors([Part(0, "y")])
    for noise in noises:
        errors.add([np.array([signal], np.float32)], [np.array([signal + noise**0.5], np.float32)])
    return errors


def spare_db(errors: OutputErrors) -> float:
    """Return the drop in SQNR of the first part, dB, with one standard error more noise."""
    ratio = errors.ratios()[0]
    return float(10 * np.log10(1 + errors.standard_errors()[0] / ratio))


def test_each_part_has_the_ratio_of_its_own_values():
    errors = OutputErrors(TWO)
    row = errors.add(
        [np.float32([[100, 100, 100, 100, 1, 1]])], [np.float32([[101, 101, 101, 101, 1.1, 0.9]])]
    )
    assert row == pytest.approx(np.array([[4e4, 4, 4], [2, 0.02, 2]]), rel=1e-5)
    assert errors.ratios() == pytest.approx([1e-4, 1e-2], rel=1e-4)
    assert errors.worst_db() == pytest.approx(20, abs=1e-3)
    assert errors.largest == pytest.approx(1)
    assert errors.samples == 1


def test_noise_of_scores_is_not_hidden_by_boxes_of_hundreds(rng):
    """One ratio over the whole tensor would say 60 dB."""
    whole, parts = OutputErrors([Part(0, "y")]), OutputErrors(TWO)
    for _ in range(100):
        y = normal(rng, 3, 6) * np.float32([640] * 4 + [1, 1])
        found = y + normal(rng, 3, 6) * np.float32([0.3] * 4 + [0.5, 0.5])
        whole.add([y], [found])
        parts.add([y], [found])
    assert whole.worst_db() > 60
    assert parts.worst_db() == pytest.approx(6, abs=1)


def test_ratios_are_of_sums_over_samples():
    errors = OutputErrors([Part(0, "y")])
    for size, off in ((1.0, 0.1), (10.0, 0.1)):
        errors.add([np.float32([size])], [np.float32([size + off])])
    assert errors.ratios() == pytest.approx([0.02 / 101], rel=1e-4)
    assert errors.powers()[0] == pytest.approx(np.array([[1], [100]]))
    assert errors.shares() == pytest.approx(np.array([[0.01 / 101], [0.01 / 101]]), rel=1e-4)


def test_a_few_samples_without_an_object_are_judged_by_the_signal_of_all():
    everything = OutputErrors([Part(0, "scores")])
    for score in (1.0, 0.0, 0.0, 0.0):
        everything.add([np.float32([score, 0])], [np.float32([score, 0.1])])
    empty = everything.some([1, 2])
    assert empty.ratios() == pytest.approx([0])
    assert empty.ratios_to(everything.signal_per_value()) == pytest.approx([0.01 / 0.25], rel=1e-4)


def test_shares_are_those_of_the_ratio():
    rng = np.random.default_rng(0)
    errors = OutputErrors([Part(0, "a"), Part(1, "unused"), Part(2, "b")])
    for _ in range(7):
        values = [rng.normal(size=size).astype(np.float32) for size in (3, 0, 50)]
        errors.add(values, [value + np.float32(0.1) for value in values])
    assert errors.shares().sum(0) == pytest.approx(errors.ratios())
    assert errors.measured == [0, 2]
    assert max(errors.shares().sum(0)) == pytest.approx(10 ** (-errors.worst_db() / 10))


def test_a_standard_error_says_how_much_chance_there_is():
    assert spare_db(one([0.01] * 20)) == pytest.approx(0, abs=1e-3)
    assert spare_db(one([0.01])) == 0  # nothing is known
    rng = np.random.default_rng(0)
    noises = rng.exponential(0.01, 64)
    drawn = [np.mean(rng.choice(noises, 64)) for _ in range(4000)]
    expected = 10 * np.log10(1 + np.std(drawn) / np.mean(noises))
    assert spare_db(one(noises)) == pytest.approx(expected, rel=0.05)
    assert spare_db(one([0.0] * 15 + [0.16])) == pytest.approx(
        10 * np.log10(2), rel=0.02
    )  # one decision that tipped


def test_a_standard_error_is_that_of_a_ratio(rng):
    """If signal and noise are large together, the ratio hardly varies; a new draw varies as expected."""
    sizes = np.exp(rng.normal(size=60))
    same = OutputErrors([Part(0, "y")])
    for size in sizes:
        same.add([np.array([size])], [np.array([size * 1.1])])
    assert same.standard_errors()[0] == pytest.approx(0, abs=1e-9)
    loose = OutputErrors([Part(0, "y")])
    pairs = [(size, 0.1 * size * each) for size, each in zip(sizes, rng.normal(size=60), strict=True)]
    for size, off in pairs:
        loose.add([np.array([size])], [np.array([size + off])])
    table = np.square(pairs)
    drawn = [
        (lambda rows: rows[:, 1].sum() / rows[:, 0].sum())(table[rng.integers(0, 60, 60)])
        for _ in range(4000)
    ]
    assert loose.standard_errors()[0] == pytest.approx(np.std(drawn), rel=0.15)


@pytest.mark.parametrize(("least", "expected"), [(0.1, 0.01), (0.0, 0.109)])
def test_one_sample_in_a_hundred_does_not_dominate_scores(least, expected):
    errors = OutputErrors([Part(0, "scores", least=least)])
    for i in range(100):
        errors.add([np.ones(1)], [np.ones(1) + (10 if i == 50 else 0.01) ** 0.5])
    assert errors.capped(0.01).ratios() == pytest.approx([expected], rel=0.01)
    assert errors.capped(0.005).ratios() == pytest.approx([0.109], rel=0.01)


def test_samples_of_a_sequence_count_as_one():
    """Ten sequences of four samples that are alike say as much as ten samples."""
    noises = np.random.default_rng(0).exponential(0.01, 10)
    errors = OutputErrors([Part(0, "y")])
    for noise in noises:
        for step in range(4):
            errors.add([np.ones(1)], [np.ones(1) + noise**0.5], follows=step > 0)
    assert (errors.samples, errors.independent) == (40, 10)
    assert errors.ratios() == pytest.approx(one(noises).ratios())
    assert errors.standard_errors() == pytest.approx(one(noises).standard_errors())


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_as_bad_as_can_be(wrong):
    errors = OutputErrors(TWO)
    for i in range(3):
        y = np.ones((1, 6), np.float32)
        errors.add([y], [np.where((np.arange(6) == 5) & (i == 1), wrong, y).astype(np.float32)])
    assert errors.ratios().tolist() == [0, np.inf]
    assert errors.worst_db() == -200
    assert errors.sample_db() == [200, -200, 200]
    assert np.isfinite(errors.standard_errors()).all()
    assert errors.heaviest(1) == []


def test_what_is_no_number_in_float_does_not_count():
    errors = OutputErrors([Part(0, "y")])
    errors.add([np.float32([1, np.nan, np.inf, 1])], [np.float32([1.1, 0, np.inf, 0.9])])
    assert errors.worst_db() == pytest.approx(20, abs=1e-3)
    assert errors.undefined == {0}


@pytest.mark.parametrize("other", [-np.inf, np.nan, 0])
def test_what_is_infinite_in_float_alone_is_as_bad_as_can_be(other):
    for finite in ([1], []):
        errors = OutputErrors([Part(0, "y")])
        errors.add([np.float32([*finite, np.inf])], [np.float32([*finite, other])])
        assert errors.worst_db() == -200
        assert errors.undefined == set()


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.01, 20), (0, 200), (1, 0), (1e30, -200), (np.inf, -200), (np.nan, -200), (1e-40, 200)],
)
def test_decibels_stay_within_200(ratio, expected):
    assert decibels(ratio) == pytest.approx(expected)


def test_what_one_shape_lacks_is_wrong():
    """Where the values decide about sizes: 3 boxes found instead of 4."""
    errors = OutputErrors([Part(0, "boxes")])
    errors.add([np.ones((4, 2))], [np.ones((3, 2))])
    assert errors.ratios() == pytest.approx([0.25])
    errors = OutputErrors([Part(0, "boxes")])
    errors.add([np.ones((3, 2))], [np.ones((4, 2))])
    assert errors.ratios() == pytest.approx([1 / 3])
    with pytest.raises(ModelError, match="2 and 1 axes"):
        errors.add([np.ones((3, 2))], [np.ones(5)])


def test_what_is_no_float_does_not_count_and_of_another_shape_all_does():
    errors = OutputErrors(
        [Part(0, "ints"), Part(1, "y", ((1, slice(0, 2)),), sizes=((1, 6),)), Part(2, "sequence")]
    )
    errors.add(
        [np.arange(3), np.ones((1, 5)), [np.ones(2)]], [np.arange(3) + 1, np.zeros((1, 5)), [np.ones(2)]]
    )
    assert errors.measured == [1]
    assert errors.worst_db() == pytest.approx(0)
    errors.add(
        [np.arange(3), np.ones((1, 6)), [np.ones(2)]], [np.arange(3) + 1, np.full((1, 6), 1.1), [np.ones(2)]]
    )
    assert errors.ratios()[1] == pytest.approx(
        (5 + 2 * 0.01) / (5 + 2)
    )  # five values of one, two of the other


def test_nothing_was_added():
    errors = OutputErrors(TWO)
    assert errors.worst_db() is None
    assert errors.sample_db() == errors.measured == []
    assert errors.standard_errors().tolist() == [0, 0]


def test_a_floor_stands_for_a_signal_that_is_smaller():
    floor = Part(0, "y", floor=0.25)
    least = Part(0, "y", least=0.1)
    for part, signal in ((floor, 0.25 * 2 * 4), (least, 0.1 * 4)):
        errors = OutputErrors([part])
        for i in range(4):
            errors.add([np.full(2, 1e-3)], [np.full(2, 1e-3) + 0.1 * (i % 2)])
        assert errors.signals() == pytest.approx([signal])
        assert errors.ratios() == pytest.approx([0.04 / signal])
        # the signal is the same for all samples: the error is that of the noise alone
        assert errors.standard_errors() == pytest.approx([np.std([0, 0.02, 0, 0.02], ddof=1) * 2 / signal])


def test_samples_are_ordered_by_their_share_of_a_parts_noise():
    errors = one([0.01, 0.05, 0.0, 0.04])
    found = errors.heaviest(0)
    assert [row for row, _ in found] == [1, 3, 0, 2]
    assert [share for _, share in found] == pytest.approx([0.5, 0.4, 0.1, 0.0], abs=1e-5)


def test_a_samples_error_is_that_of_its_worst_part():
    errors = OutputErrors(TWO)
    y = np.ones((1, 6))
    errors.add([y], [y + np.repeat([0.1, 0.01], [4, 2])])
    errors.add([y], [y + np.repeat([0.01, 0.1], [4, 2])])
    assert errors.sample_db() == pytest.approx([20, 20])


def test_a_sample_of_little_signal_is_held_against_the_mean():
    errors = OutputErrors([Part(0, "y")])
    for size in (1.0, 1.0, 0.001):
        errors.add([np.array([size])], [np.array([size + 0.01])])
    assert errors.sample_db() == pytest.approx([40, 40, 10 * np.log10(2 / 3 / 1e-4)], abs=0.01)


def test_some_samples_alone():
    errors = one([0.01, 0.05, 0.02])
    assert errors.some([0, 2]).ratios() == pytest.approx([0.015], rel=1e-4)
    assert errors.some([]).worst_db() is None


def test_few_heavy_samples_are_named():
    noises = [0.001] * 98 + [0.5, 0.4]
    names = [f"{i}.npy" for i in range(100)]
    found = heavy_samples(one(noises), 0, names)
    assert [each.sample for each in found] == ["98.npy"]
    assert found[0].noise_share == pytest.approx(0.5 / 0.998, rel=1e-3)
    assert found[0].sqnr_db == pytest.approx(3.0, abs=0.1)
    assert heavy_samples(one([0.01] * 100), 0, names) == []
    assert heavy_samples(one([0.001] * 9 + [0.9]), 0, names[:10]) == []  # of ten, one is none of few
