import numpy as np
import onnx
import pytest

from onnxq.errors import DataError, ModelError
from onnxq.evaluation import EvalOptions, evaluate
from onnxq.gates import Limits
from onnxq.metrics import OutputError
from onnxq.scores.score import ScoreOptions
from tests.conftest import CNN, SAMPLES, TRANSFORMER, parse


def test_sqnr_of_several_outputs_is_that_of_the_mean_noise_ratio():
    error = OutputError(["a", "b", "n"])
    error.add([np.float32([3, 4]), np.float32([10.0]), np.int64([1])], [np.float32([3, 4.5]), np.float32([10.0]), np.int64([5])])
    assert error.sqnr_db() == pytest.approx(-10 * np.log10(0.25 / 25 / 2))
    assert error.largest == 0.5
    assert 0.99 < error.cosine() <= 1


def test_infinite_reference_values_do_not_count():
    error = OutputError(["a"])
    error.add([np.float32([1, -np.inf])], [np.float32([1, -np.inf])])
    assert error.sqnr_db() == 200


def test_outputs_whose_sizes_the_values_decide():
    """Two boxes found of three: the third is wrong in full, whoever lacks it."""
    boxes = np.float32([[3, 4], [0, 5], [5, 0]])
    for want, have, noise in ((boxes, boxes[:2], 1 / 3), (boxes[:2], boxes, 1 / 2)):
        error = OutputError(["boxes"])
        error.add([want], [have])
        assert error.sqnr_db() == pytest.approx(-10 * np.log10(noise))
    with pytest.raises(ModelError, match="2 and 1 axes"):
        OutputError(["boxes"]).add([boxes], [boxes[0]])


def test_decisions_that_one_of_them_does_not_make_differ(tmp_path):
    text = "g (float[n,3] x) => (float[m,3] y) { s = ReduceSum<keepdims = 0>(x, axis) k = Greater(s, least) y = Compress<axis = 0>(x, k) }"
    for name, least in (("float", 0.0), ("other", 1.0)):
        onnx.save(parse(text, {"axis": np.int64([1]), "least": np.float32(least)}), tmp_path / f"{name}.onnx")
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "a.npy", np.float32([[9, 0, 0], [0, 0.5, 0], [0, 0, 9], [0.9, 0, 0]]))
    report = evaluate(tmp_path / "float.onnx", [tmp_path / "other.onnx"], tmp_path / "data")
    # rows 0, 1, 2, 3 against rows 0, 2: the first agrees
    assert report.scores[1].agreement == pytest.approx(1 / 4)


def test_a_model_against_itself():
    report = evaluate(CNN, [CNN], SAMPLES / "eval", EvalOptions(labels=SAMPLES / "eval" / "labels.csv", samples=50))
    base, same = report.scores
    assert (report.samples, report.labelled) == (50, 50)
    assert same.metrics["top-1"].value == base.metrics["top-1"].value > 0.9
    assert (same.metrics["top-1"].drop, same.metrics["top-1"].p_value, same.changed, same.classes) == (0, 1, [], [])
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
        ("file,label\n000.npy,cat\n", "sample 000.npy: label 'cat' is no class number"),
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
        (Limits(min_speedup=0.5), ["--min-speedup"]),  # latency was not measured
    ],
)
def test_gates(limits, failing):
    options = EvalOptions(labels=SAMPLES / "eval" / "labels.csv", samples=20, latency=False, limits=limits)
    gates = evaluate(CNN, [CNN], SAMPLES / "eval", options).gates
    assert [gate.name for gate in gates if not gate.holds] == failing
    assert all(gate.model == str(CNN) and str(CNN) in gate.line for gate in gates)


def test_a_drop_without_labels_cannot_be_checked():
    (gate,) = evaluate(CNN, [CNN], SAMPLES / "eval", EvalOptions(samples=3, latency=False, limits=Limits(max_drop=1))).gates
    assert not gate.holds
    assert "not measured" in gate.line


@pytest.mark.parametrize("path", [CNN, TRANSFORMER])
def test_sample_models_are_good(path):
    options = EvalOptions(labels=SAMPLES / "eval" / "labels.csv", latency=False)
    assert evaluate(path, [], SAMPLES / "eval", options).scores[0].metrics["top-1"].value > 0.97


def test_a_class_axis_that_the_output_has_not_is_refused():
    with pytest.raises(DataError, match="--class-axis 5: the output has 2 axes"):
        evaluate(CNN, [], SAMPLES / "eval", EvalOptions(score=ScoreOptions(class_axis=5), samples=1, latency=False))
