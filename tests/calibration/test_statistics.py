import json

import numpy as np
import pytest

from onnxq.calibration.sketch import Sketch
from onnxq.calibration.statistics import Statistics, load_statistics
from onnxq.errors import DataError, OutputError
from tests.calibration.sketches import sketch_of


def statistics_of(rng, names=("a", "b"), model="m"):
    statistics = Statistics(model, "d", 3)
    for name in names:
        statistics.sketches[name] = sketch_of(rng.normal(size=500))
    return statistics


def test_saved_and_loaded_are_the_same(rng, tmp_path):
    statistics = statistics_of(rng)
    statistics.save(tmp_path / "s.npz")
    loaded = load_statistics(tmp_path / "s.npz", "m")
    assert (loaded.data, loaded.samples) == ("d", 3)
    for name, sketch in statistics.sketches.items():
        other = loaded.sketches[name]
        assert np.array_equal(sketch.counts, other.counts)
        assert (sketch.minimum, sketch.maximum, sketch.seen, sketch.moving_range()) == (
            other.minimum, other.maximum, other.seen, other.moving_range(),
        )  # fmt: skip


def test_the_same_statistics_give_the_same_bytes(rng, tmp_path):
    statistics = statistics_of(rng)
    for name in ("1.npz", "2.npz"):
        statistics.save(tmp_path / name)
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()


def test_statistics_of_another_model_are_refused(rng, tmp_path):
    statistics_of(rng).save(tmp_path / "s.npz")
    with pytest.raises(DataError, match="another model"):
        load_statistics(tmp_path / "s.npz", "other")
    with pytest.raises(DataError, match="different models"):
        statistics_of(rng).merge(statistics_of(rng, model="other"))


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "s.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"s\.npz"):
        load_statistics(path, "m")


def test_a_full_disk_leaves_nothing(rng, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OutputError, match="No space left"):
        statistics_of(rng).save(tmp_path / "s.npz")
    assert list(tmp_path.iterdir()) == []


def changed_copy(path, change, *, checked=False):
    """Write a file whose header and arrays are changed; without a checksum, as older versions did."""
    with np.load(path) as file:
        arrays = {name: file[name].copy() for name in file.files}
    header = json.loads(arrays.pop("header").tobytes())
    if not checked:
        del header["checksum"]
        header["version"] = 1
    change(header, arrays)
    np.savez_compressed(path, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)


def swap_range(_, arrays):
    arrays["values"][0, :2] = arrays["values"][0, 1::-1]


def negative_counts(_, arrays):
    arrays["counts"] *= -1


def nan_range(_, arrays):
    arrays["values"][1, 0] = np.nan


def wide_range(_, arrays):
    arrays["values"][1, :2] = 500, 600


def far_average(_, arrays):
    arrays["values"][1, 4] = 1e6


def too_many_counts(_, arrays):
    arrays["counts"][0] = 10**9


def bins_twice(_, arrays):
    arrays["bins"][1] = arrays["bins"][0]


def infinite_bins(_, arrays):
    arrays["bins"][arrays["lengths"][0] - 1] = 0xFF80


def fraction_of_a_batch(_, arrays):
    arrays["values"][0, 5] = 0.5


def negative_length(_, arrays):
    arrays["lengths"] += [-1000, 1000]


def no_values(_, arrays):
    del arrays["values"]


def other_type(_, arrays):
    arrays["counts"] = arrays["counts"].astype(float)


def a_tensor_twice(header, _):
    header["tensors"] = ["a", "a"]


def a_tensor_less(header, _):
    header["tensors"] = ["a"]


def tensors_of_numbers(header, _):
    header["tensors"] = [1, 2]


def negative_samples(header, _):
    header["samples"] = -3


CHANGES = [
    swap_range, negative_counts, nan_range, wide_range, far_average, too_many_counts, bins_twice, infinite_bins,
    fraction_of_a_batch, negative_length, no_values, other_type, a_tensor_twice, a_tensor_less, tensors_of_numbers,
    negative_samples,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_changed_statistics_are_refused(rng, tmp_path, change):
    path = tmp_path / "s.npz"
    statistics_of(rng).save(path)
    changed_copy(path, change)
    with pytest.raises(DataError, match="damaged statistics: "):
        load_statistics(path, "m")
    statistics_of(rng).save(path)
    changed_copy(path, change, checked=True)
    with pytest.raises(DataError, match="changed since onnxq calibrate wrote it"):
        load_statistics(path, "m")


def test_a_plausible_change_is_refused_too(rng, tmp_path):
    def wider(_, arrays):
        arrays["values"][0, 1] *= 2

    statistics_of(rng).save(tmp_path / "s.npz")
    changed_copy(tmp_path / "s.npz", wider, checked=True)
    with pytest.raises(DataError, match="changed since onnxq calibrate wrote it"):
        load_statistics(tmp_path / "s.npz", "m")


def test_statistics_without_a_checksum_are_still_read(rng, tmp_path):
    statistics_of(rng).save(tmp_path / "s.npz")
    changed_copy(tmp_path / "s.npz", lambda *_: None)
    assert set(load_statistics(tmp_path / "s.npz", "m").sketches) == {"a", "b"}


def test_tensors_without_values_are_saved_and_loaded(tmp_path):
    statistics = Statistics("m", "d", 3, sketches={"a": Sketch()})
    statistics.save(tmp_path / "s.npz")
    assert load_statistics(tmp_path / "s.npz", "m").sketches["a"].batches == 0
