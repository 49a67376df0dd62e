from onnxq.evaluation.report import EvalReport, ModelScore, WorstSample
from onnxq.evaluation.scores.uncertainty import Value
from onnxq.report.eval_facts import TIMES, eval_facts
from onnxq.report.text import prediction


def score(name, sqnr_db, *, metrics=None, ratio=1.0):
    return ModelScore(name, metrics or {}, None, sqnr_db, None, None, 1000, 2.0 * ratio, ratio)


def report(scores, metric=None):
    return EvalReport("data", 10, 0, "y", metric, scores, [], [])


def test_predictions_are_classes_or_texts():
    assert prediction(WorstSample("a", 1.0, None, 3, 3), "->") == "3"
    assert prediction(WorstSample("a", 1.0, None, 3, 4), "->") == "3 -> 4"
    assert prediction(WorstSample("a", 1.0, None, None, None, "ab", "ac"), "->") == "ab -> ac"
    assert prediction(WorstSample("a", 1.0, None, None, None), "->") == "-"


def test_the_float_model_has_no_place_in_a_chart_of_sqnr():
    facts = eval_facts(
        report([score("f.onnx", 200.0), score("a.onnx", 30.0), score("b.onnx", 40.0, ratio=0.5)])
    )
    assert [point.name for point in facts["points"]] == ["a.onnx", "b.onnx"]
    assert facts["points"][1].text == f"40.0 dB at 0.50{TIMES} of float's latency"
    assert facts["tiles"] == []


def test_one_file_has_headline_numbers_with_units():
    value = Value(0.9, 0.85, 0.95, 10)
    lower = Value(0.88, 0.8, 0.93, 10, drop=2.0, p_value=0.3)
    pair = [
        score("f.onnx", 200.0, metrics={"top-1": value}),
        score("a.onnx", 30.0, metrics={"top-1": lower}, ratio=0.5),
    ]
    facts = eval_facts(report(pair, "top-1"))
    assert [(tile.number, tile.detail) for tile in facts["tiles"]] == [
        ("88.00%", "float 90.00%; not significant"),
        (f"2.00{TIMES}", "1 ms, float 2 ms"),
        ("30.0 dB", ""),
        (f"1.00{TIMES}", "1.0 kB → 1.0 kB"),
    ]
    assert facts["intervals"][1][2] == ["88.00%", "80.00%", "93.00%", "2.00 percentage points"]
    assert facts["chart"].count('class="spread"') == 2


def test_a_metric_of_which_less_is_better_says_so_at_its_axis():
    before, after = Value(16.0, 15.0, 17.0, 10), Value(17.0, 16.0, 18.0, 10, drop=1.0, p_value=0.01)
    pair = [
        score("f.onnx", 200.0, metrics={"perplexity": before}),
        score("a.onnx", 9.0, metrics={"perplexity": after}),
    ]
    assert "perplexity (lower is better)" in eval_facts(report(pair, "perplexity"))["chart"]
