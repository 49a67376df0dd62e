"""Inputs of a quantization: models whose inputs have defaults."""

import numpy as np
import onnx

import onnxq
from tests.conftest import normal, parse


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
