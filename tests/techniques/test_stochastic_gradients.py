"""Gradients in few bits: no bias, bounded error, feedback of what was lost."""

import numpy as np
import pytest

from onnxq.techniques.stochastic_gradients import BLOCK, quantize_gradient, with_feedback


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_mean_over_many_draws_is_the_gradient(bits: int) -> None:
    rng = np.random.default_rng(0)
    gradient = (rng.normal(size=(7, 11)) * np.array([[1e-4], [1], [1], [1], [1], [1], [30]])).astype(
        np.float32
    )
    draws = np.array([quantize_gradient(gradient, bits, rng).dequantize() for _ in range(4000)])
    step = np.abs(gradient).max() / (2 ** (bits - 1) - 1)
    # the error of a mean of n draws, each within a step, is at most step / 2 / sqrt(n): five of these
    np.testing.assert_allclose(draws.mean(axis=0), gradient, atol=5 * step / 2 / np.sqrt(4000))
    assert np.abs(draws - gradient).max() <= step * 1.001


def test_each_block_has_its_own_scale_and_zeros_stay_zero() -> None:
    gradient = np.zeros(2 * BLOCK + 5, np.float32)
    gradient[0], gradient[BLOCK] = 1000, 1e-3
    quantized = quantize_gradient(gradient, 8, np.random.default_rng(0))
    assert quantized.scales.shape == (3,)
    found = quantized.dequantize()
    np.testing.assert_allclose(found[[0, BLOCK]], [1000, 1e-3], rtol=1e-6)
    assert np.count_nonzero(found) == 2
    assert quantized.size == gradient.size + 12


def test_four_bits_take_half_of_eight() -> None:
    gradient = np.ones(10 * BLOCK, np.float32)
    eight, four = (quantize_gradient(gradient, bits, np.random.default_rng(0)).size for bits in (8, 4))
    assert four - 40 == (eight - 40) / 2


def test_with_feedback_the_sum_of_what_is_sent_follows_the_sum_of_gradients() -> None:
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(200, 50)).astype(np.float32)
    error, sent = np.zeros(50, np.float32), np.zeros(50)
    for gradient in gradients:
        quantized, error = with_feedback(gradient, error, 4, rng)
        sent += quantized.dequantize()
    np.testing.assert_allclose(sent + error, gradients.sum(axis=0), atol=1e-3)
    assert np.abs(error).max() < 2


def test_equal_seeds_give_equal_integers() -> None:
    gradient = np.random.default_rng(3).normal(size=100).astype(np.float32)
    one, other = (quantize_gradient(gradient, 4, np.random.default_rng(7)).integers for _ in range(2))
    np.testing.assert_array_equal(one, other)
