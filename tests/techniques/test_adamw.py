"""AdamW and its schedule."""

import numpy as np
import pytest

from onnxq.techniques.adamw import AdamState, adamw, warm_up_and_cosine


def test_the_first_step_has_the_size_of_the_rate_whatever_the_gradient() -> None:
    value = np.zeros(3, np.float32)
    for size in (1e-6, 1.0, 1e6):
        moved, _ = adamw(value, np.full(3, size, np.float32), AdamState.zero(value), 0.1)
        np.testing.assert_allclose(moved, -0.1, rtol=1e-4)


def test_a_quadratic_reaches_its_minimum() -> None:
    value = np.array([3.0, -2.0], np.float32)
    state = AdamState.zero(value)
    for step in range(300):
        value, state = adamw(value, 2 * (value - 1), state, 0.1 * warm_up_and_cosine(step, 300))
    np.testing.assert_allclose(value, 1.0, atol=1e-3)
    assert state.steps == 300


def test_the_decay_pulls_to_the_start() -> None:
    start = np.array([5.0], np.float32)
    value, state = np.array([6.0], np.float32), AdamState.zero(start)
    for _ in range(200):
        value, state = adamw(value, np.zeros(1, np.float32), state, 0.1, decay=0.5, start=start)
    assert float(value[0]) == pytest.approx(5.0, abs=1e-3)


def test_the_rate_rises_and_falls_to_zero() -> None:
    rates = [warm_up_and_cosine(step, 100) for step in range(100)]
    assert np.argmax(rates) == 5
    assert rates[5] == pytest.approx(1.0)
    assert (np.diff(rates[:6]) > 0).all()
    assert (np.diff(rates[5:]) < 0).all()
    assert rates[-1] < 0.001
    assert rates[0] > 0
