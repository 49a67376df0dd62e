"""Sums in front of layer normalizations are not fused with them."""

import numpy as np
import onnx
import pytest

import onnxq
from onnxq.formats.layer_norms import keep_sums_apart
from onnxq.graph.shapes import infer_shapes
from onnxq.runtime.sessions import open_session
from tests.conftest import normal, parse, run, to_ir

NORM = "y = LayerNormalization<axis=-1>(s, g, b)"
WRITTEN_OUT = (
    "m = ReduceMean<axes=[-1]>(s) d = Sub(s, m) p = Pow(d, two) v = ReduceMean<axes=[-1]>(p) e = Add(v, eps) "
    "r = Sqrt(e) n = Div(d, r) o = Mul(n, g) y = Add(o, b)"
)


def constants(rng, text):
    known = {
        "w": normal(rng, 32, 32),
        "g": normal(rng, 32),
        "b": normal(rng, 32),
        "two": np.float32(2),
        "eps": np.float32(1e-5),
    }
    return {name: array for name, array in known.items() if f" {name})" in text or f" {name}," in text}


def model_of(rng, text):
    return parse(f"g (float[N,8,32] x) => (float[N,8,32] y) {{ {text} }}", constants(rng, text), opset=17)


def fused(model, tmp_path):
    open_session(model, save_optimized=tmp_path / "optimized.onnx")
    nodes = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node
    return [node.op_type for node in nodes if "Normalization" in node.op_type]


@pytest.mark.parametrize("norm", [NORM, WRITTEN_OUT])
def test_the_runtime_fuses_no_sum(rng, tmp_path, norm):
    model = model_of(rng, f"h = MatMul(x, w) s = Add(h, x) {norm}")
    feeds = {"x": normal(rng, 2, 8, 32)}
    (before,) = run(model, feeds)
    assert fused(to_ir(model), tmp_path) == ["SkipLayerNormalization"]
    changed = to_ir(model)
    infer_shapes(changed)
    assert keep_sums_apart(changed)
    assert fused(changed, tmp_path) == ["LayerNormalization"]
    np.testing.assert_allclose(run(changed, feeds)[0], before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        f"s = Add(x, b) {NORM}",  # a bias
        "h = MatMul(x, w) s = Add(h, x) n = LayerNormalization<axis=-1>(s, g, b) y = Mul(n, s)",  # read twice
        "h = MatMul(x, w) s = Add(h, x) y = Tanh(s)",
    ],
)
def test_other_sums_stay(rng, text):
    model = to_ir(model_of(rng, text))
    infer_shapes(model)
    assert not keep_sums_apart(model)


@pytest.mark.parametrize("mode", ["static", "dynamic", "weights", "fp16"])
def test_in_every_mode_but_for_other_engines(rng, tmp_path, mode):
    onnx.save(model_of(rng, f"h = MatMul(x, w) s = Add(h, x) {NORM}"), tmp_path / "model.onnx")
    (tmp_path / "data").mkdir()
    for i in range(12):
        np.save(tmp_path / "data" / f"{i:02}.npy", normal(rng, 1, 8, 32))

    def operators(**options):
        path = tmp_path / "out.onnx"
        onnxq.quantize(
            tmp_path / "model.onnx", tmp_path / "data", path, mode=mode, force=True, effort="fast", **options
        )
        return [node.op_type for node in onnx.load(path).graph.node]

    assert "Sum" in operators()
    if mode in ("static", "weights"):
        assert "Sum" not in operators(standard=True)
