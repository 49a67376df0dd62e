"""Statistics of divided tensors, from the rows of layers and the ranges of channels."""

import numpy as np
import pytest

from onnxq.calibration.channels import add_channels, channel_ranges
from onnxq.calibration.collect import Collecting, Divided, collect
from onnxq.calibration.divided import divided_sketch
from onnxq.calibration.moments import LayerInput
from onnxq.calibration.statistics import Statistics, load_statistics
from tests.conftest import as_samples, normal, parse, to_ir

LAYER = LayerInput("a", 1, 6)
SCALES = np.array([0.5, 1, 2, 4, 8, 16.0])


def collected(batches, **how):
    model = to_ir(parse("g (float[N, 3, 6] x) => (float[N, 3, 6] y) { a = Relu(x) y = Neg(a) }", {}))
    return collect(model, ["a"], as_samples([{"x": x} for x in batches]), "m", Collecting(**how))


def test_a_divided_sketch_is_that_of_the_divided_values(rng, tmp_path):
    batches = [normal(rng, 1, 3, 6) * np.float32(10) for _ in range(5)]
    divided = Divided("a", SCALES, axis=-1)
    whole = collected(batches, channels=["a"], divided={"d": divided}, counted=1 << 20)
    whole.rows = {LAYER: [np.maximum(x, 0).reshape(-1, 1, 6) for x in batches]}
    whole.save(tmp_path / "s.npz")
    found = divided_sketch(load_statistics(tmp_path / "s.npz", "m"), divided)
    expected = whole.sketches["d"]
    assert np.array_equal(found.counts, expected.counts)
    assert (found.minimum, found.maximum) == pytest.approx((expected.minimum, expected.maximum), rel=1e-6)


def test_the_range_of_a_divided_tensor_is_that_of_all_values_though_rows_are_a_part(rng):
    batches = [normal(rng, 1, 3, 6) for _ in range(5)]
    batches[3][0, 1, 5] = 100
    divided = Divided("a", SCALES, axis=-1)
    whole = collected(batches, channels=["a"])
    whole.rows = {LAYER: [np.maximum(batches[0], 0).reshape(-1, 1, 6)]}
    assert divided_sketch(whole, divided).maximum == pytest.approx(100 / 16)


def test_without_rows_or_channels_nothing_is_derived(rng):
    rows, channels = {LAYER: [normal(rng, 4, 1, 6)]}, {"a": np.zeros((2, 6), np.float32)}
    divided = Divided("a", SCALES, axis=-1)
    for found in (Statistics("m", rows=rows), Statistics("m", channels=channels)):
        assert divided_sketch(found, divided) is None
    assert divided_sketch(Statistics("m", rows=rows, channels=channels), divided) is not None


def test_ranges_of_channels_leave_values_out_that_are_not_finite(rng):
    values = normal(rng, 2, 3, 4)
    expected = np.stack([values.min(axis=(0, 1)), values.max(axis=(0, 1))])
    assert np.array_equal(channel_ranges(values), expected)
    worse = np.concatenate([values, np.full((1, 3, 4), np.nan), np.full((1, 3, 4), -np.inf)]).astype(
        np.float32
    )
    assert np.array_equal(channel_ranges(worse), expected)


def test_merged_statistics_have_the_ranges_of_one_pass(rng):
    batches = [normal(rng, 1, 3, 6) for _ in range(4)]
    whole = collected(batches, channels=["a"])
    first, second = collected(batches[:2], channels=["a"]), collected(batches[2:], channels=["a"])
    first.merge(second)
    assert np.array_equal(first.channels["a"], whole.channels["a"])
    known = {"a": np.float32([[0, 1], [2, 3]])}
    add_channels(known, {"a": np.float32([[-1, 2], [1, 4]])})
    assert np.array_equal(known["a"], [[-1, 1], [2, 4]])
