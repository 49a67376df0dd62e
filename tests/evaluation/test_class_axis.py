"""Agreement is printed where the largest value is a decision, and not for embeddings, boxes and pixels."""

import numpy as np
import onnx
import pytest

from onnxq.errors import DataError
from onnxq.evaluation.evaluate import EvalOptions, evaluate
from onnxq.evaluation.scores.score import ScoreOptions
from onnxq.options import Limits
from onnxq.report.text import eval_text
from tests.conftest import normal, parse

LOGITS = "g (float[1,4] x) => (float[1,5] y) { y = MatMul(x, w) }"
EMBEDDING = """g (float[1,4] x) => (float[1,5] y) {
    e = MatMul(x, w) n = ReduceL2<axes=[1]>(e) y = Div(e, n) }"""
BOXES = """g (float[1,4] x) => (float[1,1,5] y) { a = MatMul(x, w) y = Unsqueeze(a, one) }"""
SCORES = """g (float[1,4] x) => (float[1,5,1] y) {
    a = MatMul(x, w) b = Unsqueeze(a, two) y = Softmax<axis=1>(b) }"""
CHOICE = "g (float[1,4] x) => (int64[1,1] y) { a = MatMul(x, w) y = ArgMax<axis=1>(a) }"


@pytest.fixture
def evaluated(rng, tmp_path):
    """Evaluate a graph against one with other weights on 30 samples."""
    (tmp_path / "data").mkdir()
    for i in range(30):
        np.save(tmp_path / "data" / f"{i}.npy", normal(rng, 1, 4))
    weights = normal(rng, 4, 5)

    def report(text, **options):
        for name, noise in (("float", 0.0), ("other", 0.3)):
            constants = {"w": weights + np.float32(noise) * normal(rng, 4, 5)}
            constants |= {"one": np.int64([1]), "two": np.int64([2])}
            onnx.save(parse(text, constants), tmp_path / f"{name}.onnx")
        paths = tmp_path / "float.onnx", [tmp_path / "other.onnx"]
        return evaluate(*paths, tmp_path / "data", EvalOptions(latency=False, **options))

    return report


@pytest.mark.parametrize("text", [LOGITS, SCORES])
def test_scores_of_classes_decide(evaluated, text):
    report = evaluated(text)
    assert 0.5 < report.scores[1].agreement < 1
    assert "agreement: share of decisions, the largest value of 'y', that are equal" in eval_text(report)


@pytest.mark.parametrize("text", [EMBEDDING, BOXES])
def test_the_largest_of_other_values_is_no_decision(evaluated, text):
    report = evaluated(text)
    assert report.scores[1].agreement is None
    assert report.scores[1].changed == []
    assert report.scores[1].worst[0].float_class is None
    assert "agreement" not in eval_text(report)


def test_a_class_itself_has_no_largest_value(evaluated):
    assert evaluated(CHOICE).scores[1].agreement is None


@pytest.mark.parametrize("text", [EMBEDDING, BOXES])
def test_who_asks_gets_it(evaluated, text):
    assert evaluated(text, score=ScoreOptions(class_axis=-1)).scores[1].agreement > 0.5
    report = evaluated(text, limits=Limits(min_agreement=0.1))
    assert [gate.holds for gate in report.gates] == [True]


def test_an_axis_that_is_none_is_refused(evaluated):
    with pytest.raises(DataError, match="--class-axis 3"):
        evaluated(LOGITS, score=ScoreOptions(class_axis=3))
