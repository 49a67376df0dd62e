"""Labels, checkpoints, interrupts and values that a careless or hostile user gives `onnxq finetune`."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.data.labels import labelled
from onnxq.data.sample import Sample
from onnxq.errors import DataError, OnnxqError, OutputError
from onnxq.finetuning.checkpoint import check_checkpoint
from onnxq.finetuning.division import divided
from onnxq.finetuning.finetune import finetuned, read_labels
from onnxq.finetuning.training import Schedule
from onnxq.modes.static import quantize_static
from onnxq.options import Effort, FinetuneOptions, QuantizeOptions, Technique
from onnxq.pipeline import finetune
from onnxq.report.quantize_text import quantize_text
from onnxq.runtime.npz import npz_bytes
from onnxq.search.inputs import prepare
from onnxq.search.trial import Finetuning

from ..conftest import parse

SHORT = FinetuneOptions(steps=3, batch=4)
HEADS = {
    "logits": "float[n,4] y",
    "masked logits": "float[n,4] y",
    "masked Softmax": "float[n,4] y",
    "logarithm": "float[n,4] y",
    "class and logits": "int64[n,1] c, float[n,4] y",
    "two Softmax": "float[n,4] y, float[n,2] z",
}
TAILS = {
    "logits": "y = MatMul(r, w)",
    "masked logits": "l = MatMul(r, w)  y = Add(l, mask)",
    "masked Softmax": "l = MatMul(r, w)  m = Add(l, mask)  y = Softmax(m)",
    "logarithm": "l = MatMul(r, w)  p = Relu(l)  y = Log(p)",
    "class and logits": "y = MatMul(r, w)  c = ArgMax<axis = 1>(y)",
    "two Softmax": "l = MatMul(r, w)  y = Softmax(l)  k = MatMul(r, u)  z = Softmax(k)",
}


def work(folder: Path, kind: str = "logits", samples: int = 24, *, folders: int = 0) -> QuantizeOptions:
    """Write a model and samples, in class folders if there are any; return options for them."""
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(0, 0.4, shape).astype(np.float32)
        for name, shape in {"v": (12, 16), "w": (16, 4), "u": (16, 2)}.items()
    }
    weights["mask"] = np.float32([0, -np.inf, 0, 0])
    text = f"g (float[n,12] x) => ({HEADS[kind]}) {{ a = MatMul(x, v)  r = Relu(a)  {TAILS[kind]} }}"
    model = parse(text, {name: each for name, each in weights.items() if f"{name})" in text})
    onnx.save(model, folder / "model.onnx")
    for i in range(samples):
        place = folder / "calib" / (str(i % folders) if folders else "")
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / f"{i:02}.npy", rng.normal(size=(1, 12)).astype(np.float32))
    return QuantizeOptions(
        folder / "model.onnx",
        folder / "calib",
        output=folder / "out.onnx",
        effort=Effort.FAST,
        without=(Technique.FALLBACK,),
        method="minmax",
        skip_slow_nodes=False,
        keep_int8=True,
        weight_bits=4,
        force=True,
    )


def trained(options: QuantizeOptions, tuning: FinetuneOptions = SHORT) -> Finetuning:
    inputs = prepare(options)
    return finetuned(inputs, quantize_static(inputs, None, lambda _: None), tuning)[1]


def write_labels(folder: Path, count: int = 24, classes: int = 4) -> str:
    path = folder / "labels.csv"
    path.write_text("\n".join(["file,label", *(f"{i:02}.npy,{i % classes}" for i in range(count))]))
    return str(path)


# --- labels


def test_class_folders_are_numbered_over_all_samples_not_those_trained_on(tmp_path: Path) -> None:
    names = [f"{folder}/{i}.npy" for folder in "abc" for i in range(2)]
    part = [Sample(name, dict) for name in names if name[0] != "a"]
    assert [each.label for each in labelled(part, "folders", names=names)] == ["1", "1", "2", "2"]
    # classes of one sample each: some have none that is trained on
    inputs = prepare(work(tmp_path, folders=24))
    expected = [
        sorted({each.name.split("/")[0] for each in inputs.samples.every}).index(each.name.split("/")[0])
        for each in divided(inputs).training
    ]
    assert read_labels(inputs, replace(SHORT, labels="folders")) == expected
    assert max(expected) > len(expected)


@pytest.mark.parametrize(
    ("folders", "message"),
    [(0, "00.npy is not in a class folder"), (1, "all samples are in the folder '0'")],
)
def test_class_folders_that_are_none_are_refused(tmp_path: Path, folders: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        finetune(work(tmp_path, folders=folders), replace(SHORT, labels="folders"))


def test_class_folders_must_be_as_many_as_the_model_has_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are 3 folders, but the model has 4 classes"):
        finetune(work(tmp_path, folders=3), replace(SHORT, labels="folders"))


def test_labels_of_samples_that_nothing_is_trained_on_are_refused(tmp_path: Path) -> None:
    inputs = prepare(work(tmp_path))
    (tmp_path / "labels.csv").write_text(f"file,label\n{inputs.samples.unseen[0].name},1\n")
    with pytest.raises(DataError, match="samples that are trained on has a label"):
        read_labels(inputs, replace(SHORT, labels=str(tmp_path / "labels.csv")))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["logits", "class and logits", "two Softmax"])
def test_labels_are_those_of_the_first_decision(tmp_path: Path, kind: str, share: float) -> None:
    labels = write_labels(tmp_path)
    assert trained(work(tmp_path, kind), replace(SHORT, labels=labels, label_share=share)).steps == 3


def test_long_labels_give_short_messages(tmp_path: Path) -> None:
    options = work(tmp_path)
    (tmp_path / "labels.csv").write_text(
        "file,label\n" + "\n".join(f"{i:02}.npy,{'9' * 500}" for i in range(24))
    )
    with pytest.raises(DataError) as caught:
        finetune(options, replace(SHORT, labels=str(tmp_path / "labels.csv")))
    assert len(str(caught.value)) < 200


# --- values


@pytest.mark.parametrize("kind", ["masked logits", "masked Softmax", "logarithm"])
def test_infinite_outputs_do_not_end_a_training(tmp_path: Path, kind: str) -> None:
    found = trained(work(tmp_path, kind))
    assert min(check.sqnr_db for check in found.checks) > 5, found.checks


def test_infinite_samples_do_not_end_a_training(tmp_path: Path) -> None:
    options = work(tmp_path)
    inputs = prepare(options)
    for number, value in enumerate((np.nan, np.inf)):
        array = np.ones((1, 12), np.float32)
        array[0, 3] = value
        np.save(tmp_path / "calib" / divided(inputs).training[number].name, array)
    found = trained(replace(options, allow_nonfinite=True))
    assert min(check.sqnr_db for check in found.checks) > 5, found.checks


# --- checkpoints


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged"),
        (npz_bytes({"facts": np.array("{}")}), "damaged"),
        (npz_bytes({"facts": np.array("[1]"), "values/a": np.zeros(2)}), "damaged"),
        (npz_bytes({"facts": np.array('{"key": "x", "part": 0}')}), "damaged"),
    ],
)
def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "state.npz").write_bytes(content)
    with pytest.raises(OnnxqError, match=reason):
        check_checkpoint(tmp_path / "state.npz", [], tmp_path / "calib")
    assert (tmp_path / "state.npz").read_bytes() == content


def test_places_where_no_checkpoint_can_be_are_refused_before_all_work(tmp_path: Path) -> None:
    options = work(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    for place, message in {
        "calib/state.npz": "among the samples of --calib",
        "file/state.npz": "is a file, not a folder",
        "calib/../out.onnx": "is the output",
        "calib/..": "is a folder",
    }.items():
        with pytest.raises(OnnxqError, match=message):
            finetune(options, replace(SHORT, checkpoint=tmp_path / place))
    with pytest.raises(OutputError, match="--checkpoint"):
        finetune(options, replace(SHORT, checkpoint=Path("/proc/state.npz")))
    assert not (tmp_path / "out.onnx").exists()


def test_a_checkpoint_belongs_to_labels_and_samples_not_to_reports_and_places(tmp_path: Path) -> None:
    labels = write_labels(tmp_path)
    tuning = replace(SHORT, labels=labels, checkpoint=tmp_path / "new" / "state.npz")
    options = work(tmp_path)
    first = finetune(options, tuning)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("model.onnx", "calib", "labels.csv"):
        (tmp_path / name).rename(moved / name)
    again = replace(
        options, model=moved / "model.onnx", calib=moved / "calib", details=True, keep_failed=True
    )
    tuning = replace(tuning, labels=str(moved / "labels.csv"), memory=100 << 20)
    second = finetune(again, tuning)
    assert second.finetuning == first.finetuning
    write_labels(moved, classes=3)
    with pytest.raises(OnnxqError, match="with other options, samples or model"):
        finetune(again, tuning)


def test_an_interrupt_while_a_checkpoint_is_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch
) -> None:
    plain, count = Path.write_bytes, []

    def interrupted(self: Path, data: bytes) -> int:
        if self.name.startswith("state.npz"):
            count.append(self)
            if len(count) == 2:
                plain(self, data[:10])
                raise KeyboardInterrupt
        return plain(self, data)

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    report = finetune(work(tmp_path), replace(SHORT, checkpoint=tmp_path / "kept" / "state.npz"))
    assert report.finetuning is not None
    assert report.finetuning.interrupted
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["state.npz"]
    with np.load(tmp_path / "kept" / "state.npz") as stored:
        assert json.loads(str(stored["facts"]))["step"] == 1


# --- steps


def test_fewer_steps_than_parts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OnnxqError, match="--steps 2: --bits 8,6,4 has 3 parts"):
        finetune(work(tmp_path), replace(SHORT, steps=2, bits=(8, 6, 4)))


def test_long_trainings_are_checked_and_kept_often() -> None:
    assert Schedule.of(3) == Schedule(3, 1, 5)
    assert Schedule.of(120) == Schedule(120, 10, 5)
    assert Schedule.of(1200) == Schedule(1200, 100, 5)
    assert Schedule.of(120_000) == Schedule(120_000, 100, 500)


@pytest.mark.usefixtures("interrupted")
def test_the_last_step_before_an_interrupt_is_checked(tmp_path: Path) -> None:
    found = trained(work(tmp_path), replace(SHORT, steps=100_000))
    assert found.interrupted
    assert [check.step for check in found.checks] == [0, 4]


# --- the report


def test_the_report_counts_labels_and_the_samples_of_both_figures(tmp_path: Path) -> None:
    report = finetune(work(tmp_path), replace(SHORT, labels=write_labels(tmp_path, count=12)))
    tuning = report.finetuning
    assert tuning is not None
    inputs = prepare(work(tmp_path))
    assert tuning.unseen == len(inputs.samples.unseen)
    assert 0 < tuning.labels == sum(each.name < "12" for each in divided(inputs).training) < tuning.samples
    text = quantize_text(report)
    assert f"on {tuning.unseen} unseen samples" in text
    assert f"labels of {tuning.labels} of {tuning.samples} samples" in text
