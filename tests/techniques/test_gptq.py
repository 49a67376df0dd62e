import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxq.techniques.arithmetic import symmetric_scale
from onnxq.techniques.bias_correction import output_shift
from onnxq.techniques.gptq import BLOCK, DAMPING, gptq_round, gptq_search
from onnxq.techniques.saturation import pair_safe_scales, round_pair_safe, saturating_pairs


def correlated(rng, rows, size):
    """Inputs whose columns depend on one another, as real activations do."""
    mix = rng.normal(size=(size // 2 + 1, size))
    return (rng.normal(size=(rows, size // 2 + 1)) @ mix + 0.3 * rng.normal(size=(rows, size))).astype(
        np.float32
    )


def layer_error(inputs, rows, stored, scales):
    return np.square(inputs @ (rows - stored * scales[:, None]).T).sum()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 2**31))
def test_the_pair_rule_holds(channels, size, seed):
    rng = np.random.default_rng(seed)
    rows = rng.uniform(-1, 1, (channels, size)).astype(np.float32)
    scales = pair_safe_scales(rows, symmetric_scale(np.abs(rows).max(axis=1)))
    x = correlated(rng, 50, size)
    stored = gptq_round(rows[None], (x.T @ x)[None] / 50, scales[None], pair_safe=True)[0]
    assert saturating_pairs(stored) == 0
    assert np.abs(stored.astype(int)).max() <= 127


@pytest.mark.parametrize("size", [9, 64, 300])
@pytest.mark.parametrize("pair_safe", [False, True])
def test_the_output_is_closer_than_with_plain_rounding(rng, size, pair_safe):
    rows = rng.normal(size=(16, size)).astype(np.float32)
    scales = symmetric_scale(np.abs(rows).max(axis=1))
    if pair_safe:
        scales = pair_safe_scales(rows, scales)
        plain = round_pair_safe(rows, scales)
    else:
        plain = np.clip(np.rint(rows / scales[:, None]), -127, 127).astype(np.int8)
    both = correlated(np.random.default_rng(1), 6000, size)
    seen, unseen = both[:4000], both[4000:]
    stored = gptq_round(rows[None], (seen.T @ seen)[None] / len(seen), scales[None], pair_safe=pair_safe)[0]
    assert layer_error(unseen, rows, stored, scales) < 0.7 * layer_error(unseen, rows, plain, scales)


@pytest.mark.parametrize("size", [2, 33, 3 * BLOCK + 5])
def test_it_is_what_the_paper_says(rng, size):
    """The paper's algorithm, by the Cholesky factor of the inverse in float64, against ours in blocks."""
    x, rows = correlated(rng, 4 * size, size), rng.normal(size=(5, size)).astype(np.float32)
    scales, moments = np.full(5, 0.25, np.float32), x.T @ x / len(x)
    damped = moments.astype(np.float64) + DAMPING * np.diag(moments).mean() * np.eye(size)
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    steps, wanted = rows / scales[:, None].astype(np.float64), np.empty((5, size))
    for i in range(size):
        wanted[:, i] = np.rint(steps[:, i])
        steps[:, i + 1 :] -= ((steps[:, i] - wanted[:, i]) / factor[i, i])[:, None] * factor[i, i + 1 :]
    stored = gptq_round(rows[None], moments[None].astype(np.float32), scales[None], pair_safe=False)[0]
    assert (stored != wanted).mean() < 0.02  # a rounding that is nearly undecided, and what follows from it


def test_independent_inputs_leave_nothing_to_gain(rng):
    rows = rng.normal(size=(1, 4, 32)).astype(np.float32)
    scales = np.abs(rows).max(axis=2) / 127
    stored = gptq_round(rows, np.eye(32, dtype=np.float32)[None], scales, pair_safe=False)
    assert np.array_equal(stored, np.rint(rows / scales[..., None]))


def test_groups_are_rounded_apart(rng):
    rows = rng.normal(size=(6, 1, 9)).astype(np.float32)
    scales = np.abs(rows).max(axis=2) / 127
    moments = np.stack([x.T @ x for x in (correlated(rng, 200, 9) for _ in range(6))]).astype(np.float32)
    together = gptq_round(rows, moments, scales, pair_safe=False)
    for g in range(6):
        alone = gptq_round(rows[g : g + 1], moments[g : g + 1], scales[g : g + 1], pair_safe=False)
        assert np.array_equal(together[g], alone[0])


def test_inputs_that_are_always_zero(rng):
    rows = rng.normal(size=(1, 3, 8)).astype(np.float32)
    scales = np.abs(rows).max(axis=2) / 127
    stored = gptq_round(rows, np.zeros((1, 8, 8), np.float32), scales, pair_safe=True)
    assert saturating_pairs(stored[0]) == 0


def test_output_shift_is_the_mean_of_what_rounding_changes(rng):
    rows = rng.normal(size=(6, 10)).astype(np.float32)
    scales = symmetric_scale(np.abs(rows).max(axis=1)) * 8
    stored = np.rint(rows / scales[:, None]).astype(np.int8)
    x = rng.normal(2, 1, size=(500, 10)).astype(np.float32)
    shift = output_shift(rows, stored, scales, x.mean(axis=0, keepdims=True))
    assert shift == pytest.approx(
        (x @ rows.T - x @ (stored * scales[:, None]).T).mean(axis=0), rel=1e-3, abs=1e-4
    )


@pytest.mark.parametrize(
    "moments", [np.diag([1.0, -0.5, 1.0, 1.0]), np.diag([-1.0, -1.0, 1.0, 1.0]), np.full((4, 4), np.nan)]
)
def test_moments_that_are_not_positive_still_round(rng, moments):
    rows = rng.normal(size=(1, 3, 4)).astype(np.float32)
    scales = np.full((1, 3), 0.02, np.float32)
    stored = gptq_round(rows, moments[None].astype(np.float32), scales, pair_safe=False)
    assert np.abs(stored * scales[..., None] - rows).max() < 0.5


@pytest.mark.parametrize("shared", [False, True])
def test_searched_scales_are_no_worse_than_any_that_were_tried(rng, shared):
    rows = (rng.normal(size=(2, 8, 24)) * rng.uniform(0.5, 2, (2, 8, 1))).astype(np.float32)
    rows[..., 3] *= 6  # a large weight in each row, best cut off in some
    inputs = [correlated(np.random.default_rng(seed), 500, 24) for seed in range(2)]
    moments = np.stack([x.T @ x / len(x) for x in inputs]).astype(np.float32)
    scales = symmetric_scale(np.abs(rows).max(axis=-1))
    if shared:
        scales = np.broadcast_to(scales.max(axis=1, keepdims=True), scales.shape)

    def errors(stored, found):
        off = rows - stored * found[..., None]
        by_row = np.stack([np.square(x @ each.T).mean(axis=0) for x, each in zip(inputs, off, strict=True)])
        return by_row.sum(axis=1) if shared else by_row

    factors = (0.4, 0.7, 1.0, 1.3)
    stored, found = gptq_search(rows, moments, scales, factors, pair_safe=True, shared=shared)
    tried = [
        errors(
            gptq_round(rows, moments.copy(), scales * np.float32(f), pair_safe=True), scales * np.float32(f)
        )
        for f in factors
    ]
    np.testing.assert_allclose(errors(stored, found), np.min(tried, axis=0), rtol=1e-3)
    multiples = found / scales
    assert len(np.unique(multiples.round(3))) > 1
    assert not shared or (np.ptp(multiples, axis=1) < 1e-6).all()
    assert all(saturating_pairs(each) == 0 for each in stored)
