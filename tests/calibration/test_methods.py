import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxq.calibration import entropy
from onnxq.calibration.methods import METHODS, MethodOptions, choose_range
from onnxq.calibration.squared_error import ClipError
from onnxq.options import Method
from onnxq.techniques.arithmetic import asymmetric_params, dequantize, quantize
from tests.calibration.sketches import sketch_of


def sqnr(x, low, high):
    params = asymmetric_params(low, high)
    noise = np.square(dequantize(quantize(x, params), params).astype(np.float64) - x).sum()
    return 10 * np.log10(np.square(x.astype(np.float64)).sum() / noise)


def with_outliers(rng, *, one_sided=False):
    """A Gaussian with a few values 20 times as large: the worst case of min-max."""
    x = rng.normal(size=200_000).astype(np.float32)
    x[:20] *= 20
    return np.abs(x) if one_sided else x


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("method", [Method.ENTROPY, Method.PERCENTILE])
def test_methods_that_ignore_outliers_serve_all_other_values_better(rng, method, one_sided):
    x = with_outliers(rng, one_sided=one_sided)
    bulk = x[20:]
    minmax = sqnr(bulk, *choose_range(sketch_of(x), Method.MINMAX, MethodOptions()))
    clipped = sqnr(bulk, *choose_range(sketch_of(x), method, MethodOptions()))
    assert clipped > minmax + 6


@pytest.mark.parametrize("method", [Method.ENTROPY, Method.MSE])
@pytest.mark.parametrize(("freedom", "one_sided", "gain"), [(4, False, 1.0), (6, False, 1.0), (6, True, 0.3)])
def test_entropy_and_mse_beat_minmax_on_heavy_tails(rng, method, freedom, one_sided, gain):
    x = rng.standard_t(freedom, 400_000).astype(np.float32)
    x = np.maximum(x, 0) if one_sided else x
    minmax = sqnr(x, *choose_range(sketch_of(x), Method.MINMAX, MethodOptions()))
    found = sqnr(x, *choose_range(sketch_of(x), method, MethodOptions()))
    assert found > minmax + gain


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_percentile_is_numpys(rng, percentile):
    x = (rng.standard_t(3, 500_000)).astype(np.float32)
    low, high = choose_range(sketch_of(x), Method.PERCENTILE, MethodOptions(percentile))
    outside = (100 - percentile) / 2
    assert low == pytest.approx(np.percentile(x, outside), rel=0.01)
    assert high == pytest.approx(np.percentile(x, 100 - outside), rel=0.01)


def divergence_of(histogram, start, stop):
    """Return the KL divergence of a clipped histogram from its 256-level version, as Migacz defines it."""
    clipped = histogram[start:stop].copy()
    clipped[0] += histogram[:start].sum()
    clipped[-1] += histogram[stop:].sum()
    version = np.zeros(stop - start)
    level = np.arange(stop - start) * entropy.LEVELS // (stop - start)
    for each in range(entropy.LEVELS):
        kept = histogram[start:stop] * (level == each)
        filled = kept > 0
        version[filled] = kept.sum() / max(filled.sum(), 1)
    p, q = clipped / clipped.sum(), np.maximum(version / version.sum(), entropy.LEAST)
    return np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0]))


@pytest.mark.parametrize("share_of_empty_bins", [0.0, 0.5, 0.99])
def test_divergences_are_those_of_the_definition(rng, share_of_empty_bins):
    histogram = rng.exponential(size=4096) * (rng.random(4096) >= share_of_empty_bins)
    starts, stops = np.array([0, 17, 1000, 1900, 2000]), np.array([4096, 4000, 3001, 2156, 2100])
    found = entropy._divergences(histogram, starts, stops)
    expected = [divergence_of(histogram, *each) for each in zip(starts[:-1], stops[:-1], strict=True)]
    assert found[:-1] == pytest.approx(expected, rel=1e-9)
    assert found[-1] == np.inf  # fewer bins than levels


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.floats(0.5, 4))
def test_mse_is_never_worse_than_minmax_by_its_own_measure(seed, tail):
    x = np.random.default_rng(seed).standard_t(tail, 2000).clip(-1e30, 1e30).astype(np.float32)
    sketch = sketch_of(x)
    error = ClipError(sketch.distribution())
    lows, highs = (
        np.array(pair)
        for pair in zip(
            *(choose_range(sketch, m, MethodOptions()) for m in (Method.MSE, Method.MINMAX)), strict=True
        )
    )
    mse, minmax = error(np.minimum(lows, 0), np.maximum(highs, 0))
    assert mse <= minmax * (1 + 1e-9)


def test_expected_error_is_that_of_real_rounding(rng):
    x = with_outliers(rng)
    low, high = -4.0, 4.0
    real = np.square(
        dequantize(quantize(x, asymmetric_params(low, high)), asymmetric_params(low, high))
        - x.astype(np.float64)
    ).sum()
    expected = ClipError(sketch_of(x).distribution())(np.array([low]), np.array([high]))[0]
    assert expected == pytest.approx(real, rel=0.03)


@pytest.mark.parametrize("method", list(METHODS))
def test_ranges_hold_zero_and_stay_within_what_was_seen(rng, method):
    for x in (rng.normal(5, 1, 1000), -np.abs(rng.normal(size=1000)), np.zeros(10), np.full(10, 3.0)):
        sketch = sketch_of(x.astype(np.float32))
        low, high = choose_range(sketch, method, MethodOptions())
        assert min(sketch.minimum, 0) <= low <= 0 <= high <= max(sketch.maximum, 0)
