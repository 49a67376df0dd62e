"""Inputs of a quantization: models whose inputs have defaults, and samples whose rare values all count."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxq
from onnxq.errors import DataError
from onnxq.evaluation.evaluate import EvalOptions
from onnxq.options import QuantizeOptions, Technique
from onnxq.plan.reasons import TOO_NOISY
from onnxq.runtime.sessions import input_specs, open_session
from onnxq.search.best_recipe import choose_best
from onnxq.search.inputs import prepare
from onnxq.search.task import Task
from tests.conftest import CNN, SAMPLES, normal, parse


def test_an_input_with_a_default_gets_no_value_from_the_samples(rng, tmp_path):
    text = """g (float[2,8] x, float hi) => (float[2,4] y) {
        h = MatMul(x, w0) t = Tanh(h) c = Clip(t, lo, hi) y = MatMul(c, w1) }"""
    weights = {"lo": np.float32(-1), "w0": normal(rng, 8, 8), "w1": normal(rng, 8, 4)}
    model = parse(text, weights)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1), "hi"))
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "data").mkdir()
    for i in range(16):
        np.save(tmp_path / "data" / f"{i:02}.npy", normal(rng, 2, 8))
    report = onnxq.quantize(
        tmp_path / "model.onnx", tmp_path / "data", tmp_path / "int8.onnx", skip_slow_nodes=False
    )
    assert report.outputs.sqnr_db > 20
    assert [value.name for value in onnx.load(tmp_path / "int8.onnx").graph.input] == ["x", "hi"]


def test_rare_values_of_validation_samples_are_within_the_ranges(rng, tmp_path):
    """The ranges are those of all samples but the unseen ones, whichever of them holds the largest values."""
    model = parse(
        "g (float[4,16] x) => (float[4,16] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }",
        {"w": normal(rng, 16, 16), "v": normal(rng, 16, 16)},
    )
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "data").mkdir()
    samples = [np.clip(normal(rng, 4, 16), -2, 2) for _ in range(24)]
    files = [tmp_path / "data" / f"{i:02}.npy" for i in range(24)]
    for file, sample in zip(files, samples, strict=True):
        np.save(file, sample)
    parts = prepare(
        QuantizeOptions(tmp_path / "model.onnx", tmp_path / "data", tmp_path / "int8.onnx")
    ).samples
    rare = next(sample.name for sample in parts.validation)
    np.save(tmp_path / "data" / rare, 3 * samples[int(rare.removesuffix(".npy"))])
    report = onnxq.quantize(
        tmp_path / "model.onnx",
        tmp_path / "data",
        tmp_path / "int8.onnx",
        method="minmax",
        skip_slow_nodes=False,
        without=(Technique.RUN_TIME_RANGES, Technique.FALLBACK),
    )
    assert report.samples == len(parts.calibration) + len(parts.validation)
    sessions = [ort.InferenceSession(tmp_path / name) for name in ("model.onnx", "int8.onnx")]
    exact, int8 = (session.run(None, {"x": np.load(tmp_path / "data" / rare)})[0] for session in sessions)
    assert np.square(exact).sum() > 10**3 * np.square(exact - int8).sum()


def test_a_plan_that_names_other_views_of_a_tensor_has_ranges(rng, tmp_path, monkeypatch):
    """With the first convolution in float, the quantized tensors are the results of the Split behind it."""
    text = """g (float[1,4,8,8] x) => (float[1,4,8,8] y) { h = Conv<pads=[1,1,1,1]>(x, w) a, b = Split<axis=1>(h, parts)
        c = Conv<pads=[1,1,1,1]>(a, u) d = Conv<pads=[1,1,1,1]>(b, v) y = Concat<axis=1>(c, d) }"""
    weights = {"w": normal(rng, 4, 4, 3, 3), "u": normal(rng, 2, 2, 3, 3), "v": normal(rng, 2, 2, 3, 3)}
    onnx.save(parse(text, weights | {"parts": np.int64([2, 2])}), tmp_path / "model.onnx")
    (tmp_path / "data").mkdir()
    for i in range(24):
        np.save(tmp_path / "data" / f"{i:02}.npy", normal(rng, 1, 4, 8, 8))

    def first_in_float(*arguments):
        candidates, choice = choose_best(*arguments)
        name = next(iter(choice.recipe.plan.nodes))
        return candidates, replace(choice, recipe=choice.recipe.leaving({name: TOO_NOISY}))

    monkeypatch.setattr("onnxq.modes.static.choose_best", first_in_float)
    report = onnxq.quantize(
        tmp_path / "model.onnx", tmp_path / "data", tmp_path / "out.onnx", skip_slow_nodes=False
    )
    assert report.planned == 2
    assert report.outputs.sqnr_db > 20


def test_a_metric_without_labels_is_refused_before_the_search():
    task = Task(SAMPLES / "calib", EvalOptions(metric="classification"))
    with pytest.raises(DataError, match="--metric classification needs labels"):
        task.check(CNN, input_specs(open_session(CNN)))
