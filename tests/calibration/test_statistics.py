import numpy as np
import pytest

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
