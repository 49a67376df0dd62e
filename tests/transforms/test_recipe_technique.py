"""The recipe for a technique: its functions, and their entry in ALGORITHMS."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnxq
from onnxq.cli.commands import main
from onnxq.options import Mode, Technique, WeightType
from onnxq.quantization.weights import layer_inputs
from onnxq.techniques.blockwise import round_to_nearest
from onnxq.transforms.algorithm import Algorithm, Needs, Transformed
from onnxq.transforms.channel_scaling import divide_channels
from onnxq.transforms.registry import ALGORITHMS
from tests.conftest import normal, parse, runtime_outputs

NAME = "dummy"
PRODUCTS = "g (float[64,64] x) => (float[64,32] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }"
LSTM = "g (float[7,1,64] x) => (float[7,1,1,96] s) { h = LSTM<hidden_size=96>(x, wi, wr) s = Tanh(h) }"


def round_toward_zero(rows, second, scales, /, *, pair_safe, limit):
    """A rounding technique that needs no statistics."""
    return np.clip(np.trunc(rows / scales[..., None]), -127, 127).astype(np.int8)


def halve(model, plan, moments, grid):
    """A transform: halve the input of each product, and double its weights."""
    copy, known = model.clone(), dict(moments)
    for name, layer in layer_inputs(plan).items():
        scales = np.full(layer.size, 2, np.float32)
        tensor = divide_channels(copy, layer.tensor, [name], scales)
        known[replace(layer, tensor=tensor)] = moments[layer].divided(scales)
    return Transformed(copy, known)


def code_negative(rows, grid, second):
    """A coding of weights in few bits that is easy to recognize: it changes the sign."""
    return round_to_nearest(-rows, grid)


@pytest.fixture
def register(monkeypatch):
    """Register a technique, in the only place that knows it."""
    return lambda **functions: monkeypatch.setitem(ALGORITHMS, NAME, Algorithm(NAME, **functions))


@pytest.fixture
def products(tmp_path, rng):
    return written(tmp_path, rng, PRODUCTS, {"w": (64, 48), "v": (48, 32)}, (64, 64))


@pytest.fixture
def lstm(tmp_path, rng):
    return written(tmp_path, rng, LSTM, {"wi": (1, 384, 64), "wr": (1, 384, 96)}, (7, 1, 64))


def written(folder, rng, text, shapes, sample):
    """Save a model with random weights, and samples beside it."""
    constants = {name: 0.1 * normal(rng, *shape) for name, shape in shapes.items()}
    onnx.save_model(parse(text, constants), folder / "model.onnx")
    (folder / "calib").mkdir()
    for i in range(16):
        np.save(folder / "calib" / f"{i:02}.npy", normal(rng, *sample))
    return folder / "model.onnx"


def constants_of(path):
    return {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}


def quantize(model, **options):
    return onnxq.quantize(model, model.parent / "calib", force=True, skip_slow_nodes=False, **options)


def test_static_quantization_tries_a_rounding_technique(products, register):
    register(round=round_toward_zero)
    noise = {trial.techniques: trial.noise for trial in quantize(products).trials}
    assert noise[NAME,] > noise[Technique.GPTQ,]
    report = quantize(products, without=(NAME,))
    assert not any(NAME in trial.techniques for trial in report.trials)


def test_static_quantization_keeps_the_best_rounding_technique(products, register):
    gptq = ALGORITHMS[Technique.GPTQ]
    register(needs=gptq.needs, round=gptq.round)
    without = (Technique.GPTQ, Technique.SMOOTHING, Technique.RUN_TIME_RANGES)
    renamed, original = quantize(products, without=without), quantize(products, without=(NAME, *without[1:]))
    assert renamed.techniques == [NAME]
    assert renamed.outputs.sqnr_db == original.outputs.sqnr_db


def test_dynamic_quantization_rounds_by_a_technique(products, register):
    register(round=round_toward_zero)
    report = quantize(products, mode=Mode.DYNAMIC, without=(Technique.GPTQ,))
    assert NAME in report.techniques
    before, after = constants_of(products)["w"], constants_of(products.with_name("model.int8.onnx"))
    expected = np.trunc(before / after["MatMul_a_weight_scale"])
    assert np.array_equal(after["MatMul_a_weight_quantized"], expected)


@pytest.mark.parametrize("mode", [Mode.STATIC, Mode.DYNAMIC])
def test_lstms_are_rounded_by_a_technique(lstm, register, mode):
    register(round=round_toward_zero)
    report = quantize(lstm, mode=mode, without=(Technique.GPTQ,))
    assert report.kernels.counts["DynamicQuantizeLSTM"] == 1
    before, after = constants_of(lstm)["wr"], constants_of(lstm.with_name("model.int8.onnx"))
    expected = np.trunc(before.swapaxes(1, 2) / after["wr_scale"])
    assert np.array_equal(after["wr_quantized"], expected)


@pytest.mark.parametrize("mode", [Mode.STATIC, Mode.DYNAMIC])
def test_a_transform_is_tried(products, register, mode):
    calls = []
    register(needs=Needs.MEANS, rewrite=lambda *inputs: calls.append(NAME) or halve(*inputs))
    report = quantize(products, mode=mode)
    assert calls
    if mode is Mode.STATIC:
        halved = [trial for trial in report.trials if NAME in trial.techniques]
        assert all(trial.sqnr_db > 30 for trial in halved)
        # techniques and methods are compared in the closer form alone
        assert min(len(halved), len(report.trials) - len(halved)) == 1
        kept = {Technique.GPTQ in t.techniques for t in report.trials if len(halved) == 1 or t in halved}
        assert kept == {True, False}
    quantize(products, mode=mode, without=(NAME,))
    assert len(calls) == 1


def test_weight_only_quantization_codes_by_a_technique(products, register):
    register(code=code_negative)
    options = {"mode": Mode.WEIGHTS, "weight_type": WeightType.INT8, "rounding": NAME}
    report = quantize(products, **options)
    assert report.techniques == [NAME]
    feeds = {"x": np.load(products.parent / "calib" / "00.npy")}
    constants = constants_of(products)
    expected = np.maximum(feeds["x"] @ -constants["w"], 0) @ -constants["v"]
    (found,) = runtime_outputs(products.with_name("model.int8.onnx"), feeds)
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_a_technique_that_needs_moments_asks_for_samples(products, register):
    register(needs=Needs.SECOND_MOMENTS, code=code_negative)
    with pytest.raises(onnxq.OnnxqError, match="--rounding dummy needs calibration samples"):
        onnxq.quantize(products, mode=Mode.WEIGHTS, rounding=NAME)


def test_the_command_line_takes_registered_names_alone(products, register):
    command = ["quantize", str(products), "--mode", "weights", "--force", "--rounding"]
    refused = CliRunner().invoke(main, [*command, NAME])
    assert refused.exit_code == 2
    assert "--rounding dummy: unknown name: choose one of auto, gptq, rtn, hqq, awq" in refused.stderr
    register(code=code_negative)
    assert CliRunner().invoke(main, [*command, NAME]).exit_code == 0
    unknown = CliRunner().invoke(main, [*command, "rtn", "--without", "nothing"])
    assert unknown.exit_code == 2
    assert "--without nothing: unknown name" in unknown.stderr
