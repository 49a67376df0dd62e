import json

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxq.data.preprocessing import TextForm
from onnxq.errors import DataError, ModelError
from onnxq.evaluation.benchmark import BenchOptions, bench
from onnxq.evaluation.generation import Decoder, Generator
from onnxq.options import Limits
from onnxq.report.files import as_text
from onnxq.report.text import bench_text
from onnxq.runtime.sessions import open_session
from tests.conftest import CNN, SAMPLES
from tests.report.test_reports import DOCS

QUICK = {"runs": 6, "seconds": 0.5}


def test_models_are_measured_at_every_setting():
    report = bench(
        [CNN, CNN],
        BenchOptions(SAMPLES / "calib", batches=(1, 4), threads=(1, 2), limits=Limits(max_size=0.5), **QUICK),
    )
    settings = [(timing.batch, timing.threads) for timing in report.models[1].timings]
    assert settings == [(1, 1), (1, 2), (4, 1), (4, 2)]
    for timing in report.models[1].timings:
        assert timing.low_ms <= timing.median_ms <= timing.high_ms
        assert timing.throughput == pytest.approx(timing.batch * 1000 / timing.median_ms)
    assert all(timing.ratio == 1 for timing in report.models[0].timings)
    assert report.models[0].load_ms > 0
    assert 1e6 < report.models[0].memory_bytes < 1e9
    assert [gate.holds for gate in report.gates] == [False]
    assert "median ms" in bench_text(report)
    jsonschema.validate(json.loads(as_text(report)), json.loads((DOCS / "schema" / "bench.json").read_text()))


def test_open_sizes_are_filled_as_asked():
    report = bench([CNN], BenchOptions(shapes={"image": (3, 1, 8, 8)}, **QUICK))
    assert report.samples == 1
    with pytest.raises(DataError, match="--shape nothing: the model has no such input: choose one of image"):
        bench([CNN], BenchOptions(shapes={"nothing": (1,)}, **QUICK))


def test_a_batch_that_the_model_does_not_take_is_said(tmp_path):
    model = onnx.load(CNN)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "one.onnx")
    with pytest.raises(ModelError, match="does not run at batch size 2"):
        bench([tmp_path / "one.onnx"], BenchOptions(batches=(2,), **QUICK))


# --- generation: a model that counts, whose cache holds all numbers so far


def counting(path, *, cached):
    """Logits are highest at the last token plus the number of tokens so far, modulo 10."""
    ids = "input_ids"
    nodes = [
        helper.make_node("Cast", [ids], ["fresh"], to=1),
        helper.make_node("Unsqueeze", ["fresh", "ends"], ["row"]),
    ]
    inputs = [helper.make_tensor_value_info(ids, 7, ["batch", "n"])]
    outputs = [helper.make_tensor_value_info("logits", 1, ["batch", 1, 10])]
    if cached:
        nodes.append(helper.make_node("Concat", ["past_key_values.0.key", "row"], ["present.0.key"], axis=2))
        inputs.append(helper.make_tensor_value_info("past_key_values.0.key", 1, ["batch", 1, "past", 1]))
        outputs.append(helper.make_tensor_value_info("present.0.key", 1, ["batch", 1, "total", 1]))
        everything = "present.0.key"
    else:
        everything = "row"
    nodes += [
        helper.make_node("ReduceSum", [everything, "axes"], ["sum"], keepdims=0),
        helper.make_node("Mod", ["sum", "ten"], ["next"], fmod=1),
        helper.make_node("Sub", ["next", "all"], ["distance"]),
        helper.make_node("Abs", ["distance"], ["far"]),
        helper.make_node("Neg", ["far"], ["near"]),
        helper.make_node("Reshape", ["near", "shape"], ["logits"]),
    ]
    constants = {
        "ends": np.array([1, 3]),
        "axes": np.array([1, 2, 3]),
        "ten": np.float32(10),
        "all": np.arange(10, dtype=np.float32),
        "shape": np.array([1, 1, 10]),
    }
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("cached", [True, False])
def test_generation_goes_on_from_what_came_before(cached, tmp_path):
    generator = Generator(Decoder(open_session(counting(tmp_path / "m.onnx", cached=cached)), TextForm()))
    found = generator.generate([1, 2, 4], 4)
    assert found.tokens == [7, 4, 8, 6]  # each the sum of all before, modulo 10
    assert len(found.times_ms) == 4


def test_a_model_that_takes_no_tokens_cannot_generate():
    with pytest.raises(ModelError, match="no input 'input_ids'"):
        Generator(Decoder(open_session(CNN), TextForm()))
    with pytest.raises(DataError, match="--tokens needs a prompt"):
        bench([CNN], BenchOptions(tokens=3, **QUICK))
