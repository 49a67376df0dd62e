"""The fit finds the costs that made the times, with outliers among them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxq.cost.model import Work
from onnxq.profiling.fit import Row, fit, non_negative_least_squares


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_least_squares_are_the_best_of_all_sets_of_free_columns(seed, columns):
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(9, columns)), random.normal(size=9)
    found = non_negative_least_squares(a, b)
    best = np.inf
    for free in itertools.product([False, True], repeat=columns):
        x = np.zeros(columns)
        x[list(free)] = np.linalg.lstsq(a[:, list(free)], b, rcond=None)[0]
        if (x >= 0).all():
            best = min(best, np.linalg.norm(a @ x - b))
    assert (found >= 0).all()
    assert np.linalg.norm(a @ found - b) == pytest.approx(best, rel=1e-6)


def test_columns_that_say_the_same_do_no_harm():
    a = np.repeat(np.arange(1.0, 7.0)[:, None], 3, axis=1)
    assert a @ non_negative_least_squares(a, 2 * a[:, 0]) == pytest.approx(2 * a[:, 0])


def test_costs_are_found_in_spite_of_disturbed_kernels():
    random = np.random.default_rng(0)
    rows = []
    for i in range(60):
        work = Work(*10 ** random.uniform(3, 7, 3))
        ns = 2000 + 0.005 * work.macs + 0.02 * work.outputs
        rows.append(Row("float spatial", work, ns * (3 if i % 10 == 0 else 1)))
    table, (quality,) = fit(rows)
    call, macs, inputs, outputs, *others = table["float spatial"]
    assert (call, macs, outputs) == pytest.approx((2000, 0.005, 0.02), rel=0.03)
    assert inputs < 0.001 and set(others) == {0.0}
    assert quality.kernels == 60 and quality.median < 0.02 < 0.5 < quality.high + 0.5


def test_kernels_that_seem_to_take_no_time_do_no_harm():
    rows = [
        Row("integer Add", Work(macs, macs, macs), ns) for macs, ns in ((1e3, -5.0), (1e4, 0.0), (1e6, 2e4))
    ]
    table, _ = fit(rows)
    assert np.isfinite(table["integer Add"]).all()
