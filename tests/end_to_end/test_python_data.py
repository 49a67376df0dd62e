"""Models and data in memory, for each function of the API."""

import sys
import typing
from dataclasses import fields

import numpy as np
import onnx
import pytest

import onnxq
from onnxq.data.python_data import stored_samples
from onnxq.data.samples import open_samples
from onnxq.errors import DataError, ModelError, OnnxqError
from onnxq.evaluation.drift import DriftKeywords, DriftOptions
from onnxq.evaluation.evaluate import EvalKeywords, EvalOptions
from onnxq.options import QuantizeKeywords, QuantizeOptions
from onnxq.recording.application import RecordKeywords, RecordOptions
from onnxq.runtime import progress
from onnxq.runtime.sessions import InputSpec
from tests.conftest import CNN, SAMPLES

IMAGE = InputSpec("image", np.dtype(np.float32), (None, 2, 2))
MASK = InputSpec("mask", np.dtype(np.int64), (None, 3))
ROWS = np.arange(24, dtype=np.float32).reshape(6, 2, 2)
MASKS = np.arange(18).reshape(6, 3)


class Tensor:
    """Stands for a tensor of torch."""

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    def cpu(self):
        return self

    def __array__(self, dtype=None, copy=None):
        return self.array


class DataSet:
    """Has a length and items, as the data sets of torch and Hugging Face."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if not 0 <= index < 6:
            raise IndexError
        return {"image": ROWS[index].tolist(), "label": int(index), "path": "a.png"}


KINDS = {
    "array": lambda: ROWS,
    "tensor": lambda: Tensor(ROWS),
    "list of rows": lambda: list(ROWS),
    "list of samples": lambda: [row[None] for row in ROWS],
    "generator": lambda: (row for row in ROWS),
    "loader": lambda: [ROWS[:4], ROWS[4:]],
    "tensors": lambda: [Tensor(ROWS[:4]), Tensor(ROWS[4:])],
    "dict": lambda: {"image": ROWS},
    "dicts": lambda: ({"image": row} for row in ROWS),
    "function": lambda: lambda: list(ROWS),
    "data set": DataSet,
}


def stored(data, specs, most=None):
    with stored_samples(data, specs, most) as folder:
        samples = open_samples(folder, specs)
        labels = folder / "labels.csv"
        return [sample.load() for sample in samples], labels.read_text().split()[
            1:
        ] if labels.exists() else None


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_data_gives_the_same_samples(kind):
    feeds, labels = stored(KINDS[kind](), [IMAGE])
    np.testing.assert_array_equal(np.stack([each["image"].reshape(2, 2) for each in feeds]), ROWS)
    assert labels == ([f"{i:06d}.npz,{i}" for i in range(6)] if kind == "data set" else None)


def test_labels_come_in_pairs_and_in_batches():
    assert stored([(row, i) for i, row in enumerate(ROWS)], [IMAGE])[1][5] == "000005.npz,5"
    assert stored([(ROWS[:4], np.arange(4)), (ROWS[4:], [4, 5])], [IMAGE])[1][5] == "000005.npz,5"


def test_several_inputs_come_as_dicts_or_in_order():
    for data in ({"image": ROWS, "mask": MASKS}, list(zip(ROWS, MASKS, strict=True)), [(ROWS, MASKS)]):
        feeds, labels = stored(data, [IMAGE, MASK])
        assert len(feeds) == 6 and labels is None
        np.testing.assert_array_equal(np.stack([each["mask"].reshape(3) for each in feeds]), MASKS)


def test_an_endless_generator_is_read_up_to_the_number_of_samples():
    def endless():
        while True:
            yield ROWS[0]

    assert len(stored(endless(), [IMAGE], 5)[0]) == 5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (5, "is no array, dict, iterable or function"),
        ([], "holds no sample"),
        (lambda: 1 / 0, "raised ZeroDivisionError"),
        ((1 / 0 for _ in range(2)), "raised ZeroDivisionError"),
        ([(ROWS, [1, 2])], "has 6 rows and 2 labels"),
    ],
)
def test_wrong_data_are_one_line(data, message):
    with pytest.raises(DataError, match=message):
        stored(data, [IMAGE])


def test_a_sample_of_another_kind_names_the_inputs():
    with pytest.raises(DataError, match=r"give a dict of arrays with the keys \[image, mask\]"):
        stored([ROWS[0]], [IMAGE, MASK])


def test_models_and_data_in_memory_are_quantized_and_compared(tmp_path):
    model = onnx.load(CNN)
    before = model.SerializeToString()
    images = np.concatenate([np.load(path) for path in sorted((SAMPLES / "calib").glob("*.npy"))[:24]])
    report = onnxq.quantize(model, iter(images), tmp_path / "int8.onnx", effort=onnxq.Effort.FAST)
    assert model.SerializeToString() == before
    assert (tmp_path / "int8.onnx").is_file() and report.samples > 0
    assert repr(report).startswith("<QuantizeReport") and len(repr(report)) < 300
    assert "<table>" in report._repr_html_() and "QLinearConv" in report._repr_html_()
    pairs = [(image, i % 10) for i, image in enumerate(images)]
    compared = onnxq.evaluate(before, [tmp_path / "int8.onnx"], pairs, latency=False)
    assert compared.labelled == 24 and compared.metric == "top-1"
    assert compared.scores[1].sqnr_db > 20
    assert "top-1" in compared._repr_html_() and len(repr(compared)) < 300
    statistics = onnxq.calibrate(model, images, tmp_path / "stats.npz")
    assert statistics.samples == 24 and (tmp_path / "stats.npz").is_file()
    assert onnxq.inspect(model).planned_mac_share > 0.5
    assert not list(tmp_path.glob("*.tmp"))


def test_wrong_models_are_one_line(tmp_path):
    with pytest.raises(OnnxqError, match="give output"):
        onnxq.quantize(onnx.load(CNN), [])
    with pytest.raises(ModelError, match="a model of type int"):
        onnxq.quantize(5, [], tmp_path / "x.onnx")
    with pytest.raises(OnnxqError, match="not an ONNX model"):
        onnxq.quantize(b"none", np.zeros((4, 1, 8, 8), np.float32), tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("keywords", "options", "others"),
    [
        (QuantizeKeywords, QuantizeOptions, {"model", "calib", "output"}),
        (EvalKeywords, EvalOptions, set()),
        (DriftKeywords, DriftOptions, set()),
        (RecordKeywords, RecordOptions, {"output"}),
    ],
)
def test_typed_keywords_are_the_fields_of_the_options(keywords, options, others):
    assert set(typing.get_type_hints(keywords)) == {each.name for each in fields(options)} - others


@pytest.mark.slow
def test_a_type_checker_knows_the_keywords(tmp_path):
    api = pytest.importorskip("mypy.api")
    (tmp_path / "user.py").write_text(
        "import onnxq\n"
        'onnxq.quantize("a.onnx", [1], effort=onnxq.Effort.FAST, samples=8)\n'
        'onnxq.quantize("a.onnx", [1], efort=onnxq.Effort.FAST)\n'
        'onnxq.evaluate("a.onnx", ["b.onnx"], [1], samples="eight")\n'
        'reveal_type(onnxq.drift("a.onnx", [1]).layers[0].clipped)\n'
    )
    output, _, code = api.run([str(tmp_path / "user.py"), "--config-file", "", "--cache-dir", str(tmp_path)])
    found = [line.split("user.py:")[1] for line in output.splitlines() if "user.py:" in line]
    lines = [line for line in found if "defined in" not in line]
    assert code == 1
    assert [line[0] for line in lines] == ["3", "4", "5"], output
    assert "efort" in lines[0] and "samples" in lines[1] and "float" in lines[2]


def test_notebooks_with_widgets_get_their_own_bars(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert not progress.in_notebook()
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    monkeypatch.setattr(progress, "find_spec", lambda _: None)
    assert not progress.in_notebook()
    monkeypatch.setattr(progress, "find_spec", lambda _: object())
    assert progress.in_notebook()
