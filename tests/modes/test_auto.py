import pytest

from onnxq.errors import DataError
from onnxq.options import Effort, Mode, Prefer, QuantizeOptions
from onnxq.pipeline import quantize
from onnxq.report.quantize_text import quantize_text
from tests.conftest import CNN, SAMPLES, TRANSFORMER


@pytest.mark.parametrize("model", [CNN, TRANSFORMER])
@pytest.mark.parametrize("prefer", Prefer)
def test_every_mode_is_tried_and_what_is_preferred_is_kept(model, prefer, tmp_path):
    output = tmp_path / "o.onnx"
    report = quantize(
        QuantizeOptions(
            model, SAMPLES / "calib", output, mode=Mode.AUTO, prefer=prefer, effort=Effort.FAST, samples=40
        )
    )
    names = {point.name for point in report.frontier}
    assert names == {"static", "weights int8", "weights int4", "fp16"} | (
        {"dynamic"} if model == TRANSFORMER else set()
    )  # the other has no large product
    (kept,) = [point for point in report.frontier if point.kept]
    good = [point for point in report.frontier if point.sqnr_db >= 20]
    if prefer is Prefer.ACCURACY:
        assert kept.sqnr_db == max(point.sqnr_db for point in report.frontier)
    elif prefer is Prefer.SIZE:
        assert kept.size == min(point.size for point in good)
    else:
        assert kept.latency <= min(point.latency for point in good) * 1.031
    assert report.output == str(output)
    assert [path.name for path in tmp_path.iterdir()] == ["o.onnx"]
    assert output.stat().st_size == report.bytes_after
    assert "kept" in quantize_text(report)


def test_comparing_needs_samples():
    with pytest.raises(DataError, match="--mode auto compares on samples"):
        quantize(QuantizeOptions(CNN, mode=Mode.AUTO))
