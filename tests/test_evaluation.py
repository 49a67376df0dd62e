import numpy as np
import pytest

from onnxq.errors import DataError, ModelError
from onnxq.evaluation import EvalOptions, EvalReport, ModelScore, evaluate, read_labels
from onnxq.metrics import Classification, OutputError
from tests.conftest import CNN, SAMPLES, TRANSFORMER


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


def test_classification_counts():
    classes = Classification()
    float_out = np.float32([[0.1, 0.9, 0.0, 0, 0, 0, 0]])
    classes.add(float_out, np.float32([[0.9, 0.8, 0, 0, 0, 0, 0]]), 1)
    classes.add(float_out, float_out, None)
    assert (classes.labelled, classes.top1, classes.top5, classes.agreeing, classes.decisions) == (1, 0, 1, 1, 2)


def test_a_model_against_itself():
    report = evaluate(CNN, [CNN], SAMPLES / "eval", EvalOptions(labels=SAMPLES / "eval" / "labels.csv", samples=50))
    base, same = report.scores
    assert (report.samples, report.labelled) == (50, 50)
    assert same.top1 == base.top1 > 0.9
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
        ("file,label\n000.npy,cat\n", "line 2: label 'cat'"),
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
    (tmp_path / "labels.csv").write_text("file,label\na,\nb,3\n")
    assert read_labels(tmp_path / "labels.csv") == {"a": None, "b": 3}


def report_with(top1, sqnr):
    def score(name, top, db):
        return ModelScore(name, top, None, None, db, None, None, 1, None, None)

    return EvalReport(10, 10, "y", [score("float", 0.9, 200.0), score("int8", top1, sqnr)])


@pytest.mark.parametrize(
    ("top1", "sqnr", "gates", "failures"),
    [
        (0.895, 30.0, (0.5, 20.0), 0),
        (0.89, 30.0, (0.5, None), 1),
        (0.95, 30.0, (0.0, None), 0),
        (0.9, 19.0, (None, 20.0), 1),
        (None, None, (1.0, 20.0), 2),
        (0.1, 0.0, (None, None), 0),
    ],
)
def test_gates(top1, sqnr, gates, failures):
    assert len(report_with(top1, sqnr).failed_gates(*gates)) == failures


@pytest.mark.parametrize("path", [CNN, TRANSFORMER])
def test_sample_models_are_good(path):
    options = EvalOptions(labels=SAMPLES / "eval" / "labels.csv", latency=False)
    assert evaluate(path, [], SAMPLES / "eval", options).scores[0].top1 > 0.97


def test_a_class_axis_that_the_output_has_not_is_refused():
    with pytest.raises(DataError, match="--class-axis 5: the output has 2 axes"):
        evaluate(CNN, [], SAMPLES / "eval", EvalOptions(class_axis=5, samples=1, latency=False))
