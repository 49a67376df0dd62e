"""The layers of a report on weights in few bits: bits, bytes and error of each weight."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxq.graph.files import load
from onnxq.modes.stored_weights import of_blocks
from onnxq.options import Mode, QuantizeOptions, WeightType
from onnxq.pipeline import quantize
from onnxq.quantization.stored_weight import error_share
from onnxq.report.html import page
from onnxq.report.quantize_text import quantize_text
from onnxq.techniques.blockwise import Grid, round_to_nearest
from tests.conftest import normal, parse

KINDS = [WeightType.INT8, WeightType.INT4, WeightType.NF4, WeightType.FP4]


@pytest.fixture
def model(rng, tmp_path):
    """A product by a weight [64, 48], a convolution, and a product of two computed values."""
    w, k = normal(rng, 64, 48), normal(rng, 64, 8, 3)
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], name="conv", pads=[1, 1]),
        helper.make_node("Transpose", ["c"], ["t"], name="turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "w"], ["p"], name="product"),
        helper.make_node("Transpose", ["p"], ["q"], name="turn_again", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["p", "q"], ["y"], name="inner"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 8, 10])],
        [helper.make_tensor_value_info("y", 1, [1, 10, 10])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(k, "k")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "m.onnx")
    (tmp_path / "data").mkdir()
    for i in range(20):
        np.savez(tmp_path / "data" / f"{i}.npz", x=normal(rng, 1, 8, 10))
    return tmp_path / "m.onnx"


def layers(model, kind, *, calib=False):
    """Quantize with details; return the report and its layers by name."""
    output = model.with_name("o.onnx")
    data = model.with_name("data") if calib else None
    options = QuantizeOptions(
        model, output=output, mode=Mode.WEIGHTS, weight_type=kind, calib=data, details=True
    )
    report = quantize(options)
    return report, {row.name: row for row in report.layers}


@pytest.mark.parametrize("kind", KINDS)
def test_each_weight_has_bits_bytes_and_error(model, kind):
    _, rows = layers(model, kind)
    product, conv = rows["product"].weight, rows["conv"].weight
    assert product.bits == (8 if kind is WeightType.INT8 else 4)
    assert product.float_bytes == 4 * 64 * 48
    written = {
        value.name: value.const_value for value in load(model.with_name("o.onnx")).graph.initializers.values()
    }
    assert product.bytes == sum(each.nbytes for name, each in written.items() if "product" in name)
    assert rows["product"].sqnr_db == product.sqnr_db
    assert (conv.bits, conv.float_bytes, conv.bytes) == (8, 4 * 64 * 8 * 3, 64 * 8 * 3 + 4 * 64)
    least = {WeightType.INT8: 40, WeightType.INT4: 18, WeightType.NF4: 18, WeightType.FP4: 15}[kind]
    assert least < product.sqnr_db < least + 10
    assert rows["inner"].weight is None
    assert rows["inner"].sqnr_db is None
    assert rows["inner"].reason == "weight is not constant"
    assert rows["product"].int8_ms is None  # no sample to run


def test_with_samples_the_error_is_that_of_the_output(model):
    _, without = layers(model, WeightType.INT4)
    model.with_name("o.onnx").unlink()
    report, rows = layers(model, WeightType.INT4, calib=True)
    assert rows["product"].sqnr_db > without["product"].sqnr_db + 1  # rounded for the output
    assert rows["product"].int8_ms is not None
    assert report.planned == 1


def test_the_page_shows_weights_without_times(model):
    report, _ = layers(model, WeightType.INT4)
    text = page(report)
    for shown in (
        "<th>bits</th>",
        "1 in 4 bits, 1 in 8 bits",
        "weight in few bits",
        '<svg class="graph nodes"',
    ):
        assert shown in text
    for absent in ("Time by operator", "file ms", "of the time", 'id="by-time"', "in integer kernels"):
        assert absent not in text


def test_the_error_of_an_output_counts_the_inputs_power(rng):
    weight, noise = normal(rng, 5, 4), normal(rng, 5, 4) / 10
    inputs = normal(rng, 1000, 4) * np.float32([10, 1, 0.1, 0])
    second = inputs.T @ inputs
    wanted = np.square(inputs @ noise.T).sum() / np.square(inputs @ weight.T).sum()
    assert error_share(weight, weight + noise, second) == pytest.approx(wanted, rel=1e-4)
    assert error_share(weight, weight + noise) == pytest.approx(
        np.square(noise).sum() / np.square(weight).sum(), rel=1e-4
    )


CACHED = """g (float[1,n,64] x, float[1,p,64] {past}) => (float[1,n,64] y, float[1,t,64] present) {{
    key = MatMul(x, w) present = Concat<axis=1>({past}, key) turned = Transpose<perm=[0,2,1]>(present)
    scores = MatMul(x, turned) seen = MatMul(scores, present) y = MatMul(seen, v) }}"""


@pytest.mark.parametrize(("past", "cache"), [("past", True), ("memory_bank", False)])
def test_an_empty_cache_hides_nothing_and_is_no_part_of_the_outputs(past, cache, rng, tmp_path):
    weights = {name: normal(rng, 64, 64) / 8 for name in "wv"}
    onnx.save(parse(CACHED.format(past=past), weights), tmp_path / "m.onnx")
    (tmp_path / "data").mkdir()
    for i in range(12):
        feeds = {"x": normal(rng, 1, 6, 64), past: np.zeros((1, 0, 64), np.float32)}
        np.savez(tmp_path / "data" / f"{i}.npz", **feeds)
    options = QuantizeOptions(tmp_path / "m.onnx", tmp_path / "data", tmp_path / "o.onnx", mode=Mode.WEIGHTS)
    report = quantize(options)
    assert [each.name for each in report.outputs.caches] == (["present"] if cache else [])
    assert {part.name for part in report.outputs.parts} == ({"y"} if cache else {"y", "present"})
    assert any(line.startswith("calibration did not see") for line in report.warnings) != cache
    assert ("1 output only feeds the next step" in quantize_text(report)) == cache


def test_without_a_share_the_error_is_that_of_the_weight(rng):
    rows = normal(rng, 16, 64)
    coded = round_to_nearest(rows, Grid(8, 32, symmetric=True))
    found = of_blocks(rows, coded)
    wanted = np.square(coded.decoded() - rows).sum() / np.square(rows).sum()
    assert found.sqnr_db == pytest.approx(-10 * np.log10(wanted), abs=0.01)
    assert (found.bits, found.bytes, found.float_bytes) == (8, 16 * (64 + 4 * 2), 16 * 64 * 4)
