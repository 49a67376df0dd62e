import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.calibration.sketch import Sketch
from tests.calibration.sketches import add_batch, sketch_of


def heavy_tailed(rng, size=400_000):
    return (rng.standard_t(2.5, size) * 0.3).astype(np.float32)


def test_minimum_maximum_and_size_are_exact(rng):
    x = heavy_tailed(rng)
    sketch = sketch_of(x[:1000], x[1000:])
    assert (sketch.minimum, sketch.maximum, sketch.seen) == (x.min(), x.max(), x.size)
    assert sketch.counts.sum() == x.size


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999])
def test_quantile_is_within_one_percent_of_numpy(rng, share):
    x = heavy_tailed(rng)
    found = sketch_of(x).distribution().quantile(share)
    exact = float(np.quantile(x, share))
    assert found == pytest.approx(exact, rel=0.01, abs=0.002)


def test_quantile_of_one_sided_values(rng):
    x = np.maximum(heavy_tailed(rng), 0)
    assert sketch_of(x).distribution().quantile(0.3) == 0
    assert sketch_of(x).distribution().quantile(0.9995) == pytest.approx(np.quantile(x, 0.9995), rel=0.01)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=6), st.integers(0, 2**31))
def test_merged_shards_equal_the_whole(sizes, seed):
    rng = np.random.default_rng(seed)
    batches = [heavy_tailed(rng, size) for size in sizes]
    whole = sketch_of(*batches)
    cut = seed % (len(batches) - 1) + 1
    first, second = sketch_of(*batches[:cut]), sketch_of(*batches[cut:])
    first.merge(second)
    assert np.array_equal(first.counts, whole.counts)
    assert (first.minimum, first.maximum, first.seen, first.batches) == (
        whole.minimum,
        whole.maximum,
        whole.seen,
        whole.batches,
    )
    assert first.moving_range() == pytest.approx(whole.moving_range(), rel=1e-9)


def test_moving_range_starts_at_the_first_batch():
    assert sketch_of([-1.0, 3.0]).moving_range() == pytest.approx((-1, 3))
    low, high = sketch_of([-1.0, 3.0], [-1.0, 1.0]).moving_range()
    assert low == pytest.approx(-1)
    assert 1 < high < 3


def test_stride_counts_a_part_and_keeps_the_range_exact(rng):
    x = heavy_tailed(rng)
    sketch = Sketch()
    add_batch(sketch, x, stride=7, offset=3)
    assert sketch.counts.sum() == len(x[3::7])
    assert (sketch.minimum, sketch.maximum, sketch.seen) == (x.min(), x.max(), x.size)


def test_empty_batches_change_nothing():
    sketch = sketch_of([])
    assert sketch.batches == 0
    assert sketch.counts.sum() == 0
