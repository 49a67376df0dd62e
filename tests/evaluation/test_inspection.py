import numpy as np
import onnx
import pytest

from onnxq.cost.target import CPU_TABLES
from onnxq.errors import DataError
from onnxq.evaluation.inspection import InspectOptions, inspect_model
from onnxq.options import Effort, QuantizeOptions, Target
from onnxq.pipeline import quantize
from onnxq.report.text import inspect_text
from tests.conftest import CNN, SAMPLES, TRANSFORMER, parse


def test_macs_count_open_sizes_as_one_and_say_so():
    report = inspect_model(TRANSFORMER)
    assert (report.forecast, report.shaped) == (None, False)
    assert "--shape or --data" in inspect_text(report)


@pytest.mark.parametrize(
    "options", [InspectOptions(shapes={"image": (4, 1, 8, 8)}), InspectOptions(data=SAMPLES / "calib")]
)
def test_with_shapes_the_cost_model_says_what_int8_gains(options):
    report = inspect_model(CNN, options)
    plain = sum(row.macs for row in inspect_model(CNN).operators)
    assert sum(row.macs for row in report.operators) == (4 if options.data is None else 1) * plain
    assert 0 < report.forecast.latency < 1.2
    assert 0.2 < report.forecast.bytes / report.bytes < 0.5
    assert "expected" in inspect_text(report)


def test_the_forecast_plans_what_quantize_does(tmp_path):
    options = QuantizeOptions(
        CNN, SAMPLES / "calib", tmp_path / "o.onnx", effort=Effort.FAST, samples=24, keep_int8=True
    )
    written = quantize(options)
    found = inspect_model(CNN, InspectOptions(data=SAMPLES / "calib"))
    assert found.planned_mac_share == pytest.approx(written.kernels.model_share, abs=0.01)
    assert found.forecast.bytes == pytest.approx(written.bytes_after, rel=0.2)
    again = inspect_model(tmp_path / "o.onnx")
    assert again.quantized > 10
    assert again.integer_share == pytest.approx(written.kernels.model_share, abs=0.01)
    assert again.kernels["QLinearConv"] == 6
    assert "quantized  already" in inspect_text(again)


def test_a_target_without_a_cost_table_has_no_forecast(monkeypatch):
    monkeypatch.setitem(CPU_TABLES, Target.ARM, ())
    assert (
        inspect_model(CNN, InspectOptions(shapes={"image": (1, 1, 8, 8)}, target=Target.ARM)).forecast is None
    )


def test_a_shape_of_an_unknown_input_is_refused():
    with pytest.raises(DataError, match="--shape x: the model has no such input"):
        inspect_model(CNN, InspectOptions(shapes={"x": (1,)}))


def test_arithmetic_on_shapes_is_not_counted_as_int8(tmp_path):
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    model = parse(
        "g (float[N,3,8,8] x) => (float[N,4,8,8] b, int64[4] t) {"
        " a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a) s = Shape(b) t = Mul(s, s) }",
        {"w": weight},
    )
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    report = inspect_model(path)
    assert {row.op_type: row.integer for row in report.operators} == {
        "Conv": 1,
        "Relu": 1,
        "Shape": 0,
        "Mul": 0,
    }
