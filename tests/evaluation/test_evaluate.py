import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from onnxq.errors import DataError, ModelError
from onnxq.evaluation.evaluate import EvalOptions, evaluate
from onnxq.evaluation.scores.score import ScoreOptions
from onnxq.options import Limits
from tests.conftest import CNN, SAMPLES, TRANSFORMER, parse


def test_decisions_that_one_of_them_does_not_make_differ(tmp_path):
    text = "g (float[n,3] x) => (float[m,3] y) { s = ReduceSum<keepdims = 0>(x, axis) k = Greater(s, least) y = Compress<axis = 0>(x, k) }"
    for name, least in (("float", 0.0), ("other", 1.0)):
        onnx.save(parse(text, {"axis": np.int64([1]), "least": np.float32(least)}), tmp_path / f"{name}.onnx")
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "a.npz", x=np.float32([[9, 0, 0], [0, 0.5, 0], [0, 0, 9], [0.9, 0, 0]]))
    report = evaluate(tmp_path / "float.onnx", [tmp_path / "other.onnx"], tmp_path / "data")
    # rows 0, 1, 2, 3 against rows 0, 2: the first agrees
    assert report.scores[1].agreement == pytest.approx(1 / 4)


def test_a_model_against_itself():
    report = evaluate(
        CNN, [CNN], SAMPLES / "eval", EvalOptions(labels=SAMPLES / "eval" / "labels.csv", samples=50)
    )
    base, same = report.scores
    assert (report.samples, report.labelled) == (50, 50)
    assert same.metrics["top-1"].value == base.metrics["top-1"].value > 0.9
    assert (same.metrics["top-1"].drop, same.metrics["top-1"].p_value, same.changed, same.classes) == (
        0,
        1,
        [],
        [],
    )
    assert (same.agreement, same.sqnr_db, same.max_error) == (1.0, 200.0, 0.0)
    assert same.latency_ratio == pytest.approx(same.latency_ms / base.latency_ms)


def test_models_with_other_outputs_are_refused(tmp_path):
    import onnx

    model = onnx.load(CNN)
    model.graph.output[0].name = model.graph.node[-1].output[0] = "other"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="its outputs are"):
        evaluate(CNN, [tmp_path / "other.onnx"], SAMPLES / "eval")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "header file,label"),
        ("file,label\n000.npy,cat\n", "sample 000.npy: label 'cat' is not a class index"),
        ("file,label\nx.npy,1\n", "names no file"),
        ("file,label\n000.npy,1\nx.npy,1\n", "x.npy is not"),
    ],
)
def test_bad_labels(tmp_path, text, said):
    labels = tmp_path / "labels.csv"
    labels.write_text(text)
    with pytest.raises(DataError, match=said):
        evaluate(CNN, [], SAMPLES / "eval", EvalOptions(labels=labels, latency=False))


def test_empty_labels_do_not_count(tmp_path):
    (tmp_path / "labels.csv").write_text("file,label\n000.npy,\n001.npy,3\n")
    report = evaluate(CNN, [], SAMPLES / "eval", EvalOptions(labels=tmp_path / "labels.csv", latency=False))
    assert (report.samples, report.labelled, report.scores[0].metrics["top-1"].samples) == (2, 1, 1)


@pytest.mark.parametrize(
    ("limits", "failing"),
    [
        (Limits(max_drop=0.0, min_sqnr=200.0, min_agreement=1.0, max_size=1.0), []),
        (Limits(max_drop=-0.1), ["--max-drop"]),
        (Limits(max_drop=-0.1, significant=True), []),
        (Limits(min_sqnr=201.0, min_agreement=1.0), ["--min-sqnr"]),
        (Limits(max_size=0.5), ["--max-size"]),
    ],
)
def test_gates(limits, failing):
    options = EvalOptions(labels=SAMPLES / "eval" / "labels.csv", samples=20, latency=False, limits=limits)
    gates = evaluate(CNN, [CNN], SAMPLES / "eval", options).gates
    assert [gate.name for gate in gates if not gate.holds] == failing
    assert all(gate.model == str(CNN) and str(CNN) in gate.line for gate in gates)


def test_a_speed_up_that_is_not_measured_is_refused_at_once():
    with pytest.raises(DataError, match="--min-speedup needs latency"):
        evaluate(CNN, [CNN], SAMPLES / "eval", EvalOptions(latency=False, limits=Limits(min_speedup=0.5)))


def test_labels_that_do_not_belong_to_the_outputs_are_said(tmp_path):
    names = sorted(path.name for path in (SAMPLES / "eval").glob("*.npy"))[:40]
    for shift, said in ((5, "no better than chance among 10 classes"), (0, None)):
        rows = (SAMPLES / "eval" / "labels.csv").read_text().splitlines()[1:]
        known = dict(row.split(",") for row in rows)
        moved = [f"{name},{(int(known[name]) + shift) % 10}" for name in names]
        (tmp_path / "labels.csv").write_text("\n".join(["file,label", *moved]) + "\n")
        warnings = evaluate(
            CNN, [], SAMPLES / "eval", EvalOptions(labels=tmp_path / "labels.csv", latency=False)
        ).warnings
        assert any("chance" in warning for warning in warnings) is (said is not None)
        assert said is None or any(said in warning for warning in warnings)
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *(f"{name},12" for name in names)]) + "\n")
    warnings = evaluate(
        CNN, [], SAMPLES / "eval", EvalOptions(labels=tmp_path / "labels.csv", latency=False)
    ).warnings
    assert any("labels 12 are not among the output's 10 classes" in warning for warning in warnings)


def test_a_baseline_without_the_file_or_the_metric_holds_nothing(tmp_path):
    labels = SAMPLES / "eval" / "labels.csv"
    options = EvalOptions(labels=labels, samples=20, latency=False, limits=Limits(max_drop=5.0))
    empty = {
        "scores": [{"model": "other.onnx", "metrics": {}, "sqnr_db": None, "latency_ratio": None, "bytes": 1}]
    }
    (tmp_path / "baseline.json").write_text(json.dumps(empty))
    gates = evaluate(
        CNN, [CNN], SAMPLES / "eval", replace(options, baseline=tmp_path / "baseline.json")
    ).gates
    (failed,) = [gate for gate in gates if not gate.holds]
    assert failed.name == "--max-drop since --baseline"
    assert f"top-1 of {CNN.name} is not in {tmp_path / 'baseline.json'}" in failed.line


def test_a_drop_without_labels_cannot_be_checked():
    (gate,) = evaluate(
        CNN, [CNN], SAMPLES / "eval", EvalOptions(samples=3, latency=False, limits=Limits(max_drop=1))
    ).gates
    assert not gate.holds
    assert "not measured" in gate.line


@pytest.mark.parametrize("path", [CNN, TRANSFORMER])
def test_sample_models_are_good(path):
    options = EvalOptions(labels=SAMPLES / "eval" / "labels.csv", latency=False)
    assert evaluate(path, [], SAMPLES / "eval", options).scores[0].metrics["top-1"].value > 0.97


def test_a_class_axis_that_the_output_has_not_is_refused():
    with pytest.raises(DataError, match="--class-axis 5: the output has 2 axes"):
        evaluate(
            CNN, [], SAMPLES / "eval", EvalOptions(score=ScoreOptions(class_axis=5), samples=1, latency=False)
        )
