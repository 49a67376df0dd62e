"""The sample networks, from file to file, in the runtime's kernels, within the documented bounds."""

import pytest

import onnxq
from onnxq.evaluation.evaluate import EvalOptions, evaluate
from tests.conftest import CNN, SAMPLES, TRANSFORMER


@pytest.mark.parametrize("file_format", list(onnxq.Format))
@pytest.mark.parametrize(
    ("model", "most_points"), [(CNN, 0.5), (TRANSFORMER, 1.0)], ids=["cnn", "transformer"]
)
def test_sample_networks(tmp_path, model, most_points, file_format):
    output = tmp_path / "int8.onnx"
    report = onnxq.quantize(
        model, SAMPLES / "calib", output, method=onnxq.Method.PERCENTILE, format=file_format
    )
    assert report.kernels.integer_share == 1.0
    assert report.kernels.fell_back == []
    assert [line for line in report.warnings if "slower" not in line] == []
    assert report.bytes_after < 0.4 * report.bytes_before
    options = EvalOptions(labels=SAMPLES / "eval" / "labels.csv", latency=False)
    _, score = evaluate(model, [output], SAMPLES / "eval", options).scores
    assert score.metrics["top-1"].drop <= most_points
    assert score.agreement >= 0.99
    assert score.sqnr_db > 35


def test_samples_are_disjoint():
    calib = {path.read_bytes() for path in (SAMPLES / "calib").glob("*.npy")}
    held_out = {path.read_bytes() for path in (SAMPLES / "eval").glob("*.npy")}
    assert len(calib) == 200
    assert not calib & held_out
