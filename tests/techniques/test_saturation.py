import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxq.techniques.arithmetic import symmetric_scale
from onnxq.techniques.saturation import (
    kernel_order,
    original_order,
    pair_safe_scales,
    round_pair_safe,
    saturating_pairs,
)

weights = arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(1, 17)), elements=st.floats(-100, 100, width=32)
)


def emulate_dot(activations, rows):
    """Accumulate as the saturating kernels do: one uint8 vector [K], int8 rows [channels, K]."""
    a, w = np.asarray(activations, np.int32), np.asarray(rows, np.int32)
    if w.shape[1] % 2:
        a, w = np.pad(a, (0, 1)), np.pad(w, ((0, 0), (0, 1)))
    products = a * w
    return np.clip(products[:, ::2] + products[:, 1::2], -(2**15), 2**15 - 1).sum(axis=1)


def pair_safe(rows):
    scales = pair_safe_scales(rows, symmetric_scale(np.abs(rows).max(axis=1)))
    return round_pair_safe(rows, scales), scales


@given(weights)
def test_no_pair_saturates(rows):
    stored, _ = pair_safe(rows)
    assert saturating_pairs(stored) == 0


@given(weights, st.integers(0, 2**32 - 1))
def test_saturating_kernels_are_exact_under_the_rule(rows, seed):
    stored, _ = pair_safe(rows)
    activations = np.random.default_rng(seed).choice([0, 1, 254, 255], rows.shape[1])
    exact = stored.astype(np.int64) @ activations
    assert emulate_dot(activations, stored).tolist() == exact.tolist()


@given(weights)
def test_pairs_that_obey_the_rule_are_rounded_to_nearest(rows):
    scales = symmetric_scale(np.abs(rows).max(axis=1)) * 2  # half range: no pair breaks the rule
    plain = np.clip(np.rint(rows / scales[:, None]), -127, 127)
    assert np.array_equal(round_pair_safe(rows, scales), plain)


def test_full_range_neighbours_saturate_without_the_rule():
    rows = np.full((1, 8), 127, np.int8)
    activations = np.full(8, 255)
    assert saturating_pairs(rows) == 4
    assert emulate_dot(activations, rows)[0] < rows.astype(int)[0] @ activations


def test_the_rule_costs_at_most_half_the_error_of_half_range(rng):
    rows = rng.normal(size=(64, 256)).astype(np.float32)
    stored, scales = pair_safe(rows)
    error = np.square(stored * scales[:, None] - rows).mean()
    half = symmetric_scale(np.abs(rows).max(axis=1)) * 2
    half_error = np.square(np.rint(rows / half[:, None]) * half[:, None] - rows).mean()
    assert error < half_error / 2


@pytest.mark.parametrize(
    ("shape", "axis"), [((6, 5), 0), ((6, 5), 1), ((4, 3, 5), 0), ((4, 3, 3, 2), 0), ((2, 3, 1, 2, 2), 0)]
)
def test_kernel_order_and_back(rng, shape, axis):
    weight = rng.normal(size=shape).astype(np.float32)
    rows = kernel_order(weight, axis)
    assert rows.shape == (shape[axis], weight.size // shape[axis])
    assert np.array_equal(original_order(rows, shape, axis), weight)


def test_convolution_order_is_kernel_then_channel():
    weight = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)
    assert kernel_order(weight, 0)[0, :3].tolist() == weight[0, :, 0, 0].tolist()
