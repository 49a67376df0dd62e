import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxq.errors import ModelError
from onnxq.evaluation.debugging import debug
from onnxq.options import Effort, Method, QuantizeOptions, Target, Technique
from onnxq.pipeline import quantize
from onnxq.report.files import write_reports
from onnxq.report.text import debug_text
from tests.conftest import CNN, SAMPLES, TRANSFORMER


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("debug") / "o.onnx"
    quantize(
        QuantizeOptions(CNN, SAMPLES / "calib", path, effort=Effort.FAST, method=Method.MINMAX, samples=40)
    )
    return path


def test_a_good_file_has_nothing_to_try(written):
    report = debug(CNN, written, SAMPLES / "calib")
    convolutions = [row for row in report.layers if row.op_type == "Conv"]
    assert len(convolutions) == 6
    assert all(row.sqnr_db > 20 and row.saturating == 0 and not row.advice for row in convolutions)
    assert [row.sqnr_db for row in report.worst] == sorted(row.sqnr_db for row in report.worst)
    assert "what to try" not in debug_text(report)


def test_its_own_error_is_that_with_float_inputs(written, tmp_path):
    """One weight is wrong: the layer itself is to blame, those behind it only suffer."""
    model = onnx.load(written)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    dequantizer = next(node for node in model.graph.node if node.output[0] == convolutions[2].input[1])
    weight = initializers[dequantizer.input[0]]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) // 2, weight.name))
    onnx.save(model, tmp_path / "bad.onnx")
    good = {row.name: row for row in debug(CNN, written, SAMPLES / "calib").layers}
    bad = {row.name: row for row in debug(CNN, tmp_path / "bad.onnx", SAMPLES / "calib").layers}
    names = [node.name for node in convolutions]
    assert all(good[name].own_db > 25 and good[name].own_db > good[name].sqnr_db - 1 for name in names)
    assert bad[names[2]].own_db < 10
    for name in (*names[:2], *names[3:]):
        assert abs(bad[name].own_db - good[name].own_db) < 1
    assert bad[names[3]].sqnr_db < good[names[3]].sqnr_db - 5


def test_the_page_shows_both_errors(written, tmp_path):
    pytest.importorskip("jinja2")
    write_reports(
        debug(CNN, written, SAMPLES / "calib"), {tmp_path / "r.html": ".html", tmp_path / "r.json": ".json"}
    )
    text = (tmp_path / "r.html").read_text()
    assert text.count('class="line ') == 2
    assert "own dB" in text
    assert json.loads((tmp_path / "r.json").read_text())["layers"][0]["own_db"] > 25


def test_a_cut_range_and_a_wrong_weight_are_found(written, tmp_path):
    model = onnx.load(written)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    quantizer = next(
        node
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.name.startswith("/wide")
    )
    scale = initializers[quantizer.input[1]]
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) / np.float32(4), scale.name))
    dequantizer = next(node for node in model.graph.node if node.output[0] == convolutions[3].input[1])
    weight = initializers[dequantizer.input[0]]
    weight.CopyFrom(numpy_helper.from_array(np.full(weight.dims, 127, np.int8), weight.name))
    onnx.save(model, tmp_path / "bad.onnx")
    report = debug(CNN, tmp_path / "bad.onnx", SAMPLES / "calib")
    rows = {row.name: row for row in report.layers}
    assert rows[convolutions[3].name].saturating > 1000
    assert "--target portable" in rows[convolutions[3].name].advice
    cut = next(row for row in report.layers if row.name.startswith("/wide"))
    assert cut.clipped > 0.01
    assert "of its values are clipped" in cut.advice
    assert "advice" in debug_text(report)


def test_weights_for_newer_cpus_are_named(tmp_path):
    path = tmp_path / "o.onnx"
    options = QuantizeOptions(
        TRANSFORMER, SAMPLES / "calib", path, target=Target.VNNI, effort=Effort.FAST, samples=24
    )
    quantize(options)
    assert any(row.saturating for row in debug(TRANSFORMER, path, SAMPLES / "calib").layers)


def test_factors_of_channels_are_no_error(tmp_path):
    path = tmp_path / "o.onnx"
    quantize(QuantizeOptions(TRANSFORMER, SAMPLES / "calib", path, samples=48))
    report = debug(TRANSFORMER, path, SAMPLES / "calib")
    assert all(row.sqnr_db > 15 for row in report.layers if row.sqnr_db is not None)


def test_small_factors_of_channels_are_no_error_either(tmp_path):
    """Equalization multiplies channels by factors near 1, too."""
    path = tmp_path / "o.onnx"
    made = quantize(QuantizeOptions(CNN, SAMPLES / "calib", path, method="mse", samples=200))
    assert Technique.EQUALIZATION in made.techniques
    report = debug(CNN, path, SAMPLES / "calib")
    assert all(row.sqnr_db > 30 for row in report.layers if row.sqnr_db is not None)


def test_files_without_a_layer_in_common_are_refused(written, tmp_path):
    model = onnx.load(written)
    for i, node in enumerate(model.graph.node):
        node.name = f"other{i}"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="has no layer of"):
        debug(CNN, tmp_path / "other.onnx", SAMPLES / "calib")
