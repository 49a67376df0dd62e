"""A weight that several nodes use is rounded and stored once."""

import numpy as np
import onnx
import pytest

from onnxq.calibration.collect import MomentOptions, collect_moments
from onnxq.calibration.moments import Moments
from onnxq.normalize.passes import normalize
from onnxq.options import Mode, QuantizeOptions, WeightType
from onnxq.pipeline import quantize
from onnxq.plan.plan import make_plan
from onnxq.quantization.weights import (
    Use,
    WeightOptions,
    layer_inputs,
    quantize_weight,
    second_moments,
    sharing,
)
from onnxq.transforms.registry import with_techniques
from onnxq.transforms.smoothquant import smooth
from onnxq.types import INT8
from tests.conftest import Quantized, as_samples, normal, parse, to_ir

HEADS = """g (float[1,4,9,9] a, float[1,4,5,5] c) => (float[1,6,9,9] y, float[1,6,5,5] z) {
    p = Conv<pads=[1,1,1,1]>(a, v) q = Relu(p) y = Conv<pads=[1,1,1,1]>(q, w, b)
    r = Conv<pads=[1,1,1,1]>(c, v) s = Relu(r) z = Conv<pads=[1,1,1,1]>(s, w, d) }"""
LAYERS = """g (float[n,64] x) => (float[n,64] y) {
    a = MatMul(x, w) b = Add(a, u) c = Tanh(b) d = MatMul(c, w) e = Add(d, v) f = Tanh(e)
    h = MatMul(f, w) y = Tanh(h) }"""


def heads(rng):
    constants = {
        "v": normal(rng, 8, 4, 3, 3),
        "w": normal(rng, 6, 8, 3, 3),
        "b": normal(rng, 6),
        "d": 3 * normal(rng, 6),
    }
    feeds = [{"a": normal(rng, 1, 4, 9, 9), "c": 5 * normal(rng, 1, 4, 5, 5)} for _ in range(6)]
    return parse(HEADS, constants), feeds


def together(plan, channels):
    """Return the names of the nodes that share the weight with `channels` output channels."""
    return next(names for names in sharing(plan) if plan.nodes[names[0]].node.inputs[1].shape[0] == channels)


def of_shape(model, *shape):
    """Return the initializers of a file or graph with some number of elements."""
    size = int(np.prod(shape))
    graph = onnx.load(model).graph if not isinstance(model, onnx.GraphProto) else model
    return [tensor for tensor in graph.initializer if np.prod(tensor.dims) in (size, size // 2)]


@pytest.mark.parametrize("qoperator", [False, True])
@pytest.mark.parametrize("gptq", [False, True])
def test_heads_of_several_scales(gptq, qoperator, rng):
    model, feeds = heads(rng)
    quantized = Quantized(
        model,
        feeds,
        qoperator=qoperator,
        weights=with_techniques(
            WeightOptions(), ("gptq", "bias-correction") if gptq else ("bias-correction",)
        ),
    )
    stored = [
        v for v in quantized.model.graph.initializers.values() if v.shape in [(8, 4, 3, 3), (6, 8, 3, 3)]
    ]
    assert len(stored) == 2
    assert (
        len(
            [
                v
                for v in quantized.model.graph.initializers.values()
                if v.name.endswith("_quantized") and v.shape == (6,)
            ]
        )
        == 2
    )
    error, difference = quantized.errors()
    assert error < 0.05
    assert difference < 0.01


def layers(folder, rng):
    constants = {"w": normal(rng, 64, 64) / 8, "u": normal(rng, 64), "v": normal(rng, 64)}
    onnx.save(parse(LAYERS, constants), folder / "model.onnx")
    (folder / "calib").mkdir()
    for i in range(16):
        np.save(folder / "calib" / f"{i}.npy", normal(rng, 4, 64))
    return QuantizeOptions(folder / "model.onnx", folder / "calib", folder / "out.onnx")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": Mode.DYNAMIC},
        {"mode": Mode.WEIGHTS, "weight_type": WeightType.INT8},
        {"mode": Mode.WEIGHTS, "weight_type": WeightType.INT4},
        {"mode": Mode.WEIGHTS, "weight_type": WeightType.INT4, "standard": True},
        {"mode": Mode.WEIGHTS, "weight_type": WeightType.NF4},
        {"mode": Mode.FP16},
    ],
    ids=str,
)
def test_every_mode_stores_it_once(options, tmp_path, rng):
    asked = layers(tmp_path, rng)
    report = quantize(QuantizeOptions(asked.model, asked.calib, asked.output, **options))
    assert report.outputs.sqnr_db > 12
    assert len(of_shape(tmp_path / "out.onnx", 64, 64)) == 1


def test_a_float_weight_is_narrowed_once(tmp_path, rng):
    asked = layers(tmp_path, rng)
    model = onnx.load(asked.model)
    for i, node in enumerate(model.graph.node):
        node.name = f"n{i}"
    onnx.save(model, asked.model)
    quantize(QuantizeOptions(asked.model, asked.calib, asked.output, exclude=("n0",)))
    assert len(of_shape(tmp_path / "out.onnx", 64, 64)) == 2  # in float for one, as integers for two


def test_a_transposed_use_is_another_weight(rng):
    text = "g (float[n,8] x) => (float[n,8] y) { a = Gemm<transB = 1>(x, w) b = Relu(a) y = Gemm(b, w) }"
    model = normalize(to_ir(parse(text, {"w": normal(rng, 8, 8)})))
    assert [len(names) for names in sharing(make_plan(model))] == [1, 1]


def test_rounding_sees_the_rows_of_all(rng):
    model, feeds = heads(rng)
    floats = normalize(to_ir(model))
    plan = make_plan(floats)
    moments = collect_moments(
        floats, layer_inputs(plan).values(), as_samples(feeds), MomentOptions(second=True)
    )
    names = together(plan, 6)
    parts = [moments[layer_inputs(plan)[name]] for name in names]
    for part in parts:
        part.raw()  # all rows multiplied
    whole = Moments(
        *(
            sum(getattr(part, name) for part in parts)
            for name in ("first", "squares", "low", "high", "second", "rows")
        )
    )
    uses = [Use(plan.nodes[name], np.float32(0.1), part) for name, part in zip(names, parts, strict=True)]
    np.testing.assert_allclose(second_moments(uses, centred=False), whole.raw(), rtol=1e-4, atol=1e-4)
    first, second = quantize_weight(uses, with_techniques(WeightOptions(), ("gptq", "bias-correction")))
    assert first.stored is second.stored
    assert not np.allclose(first.shift, second.shift)
    assert second_moments([uses[0], Use(uses[1].planned, np.float32(0.1), None)], centred=False) is None


def test_the_scale_holds_the_larger_bias(rng):
    model, _ = heads(rng)
    plan = make_plan(normalize(to_ir(model)))
    names = together(plan, 6)
    steps = np.float32([1e-7, 1e-9])
    found = quantize_weight(
        [Use(plan.nodes[name], step, None) for name, step in zip(names, steps, strict=True)], WeightOptions()
    )
    for name, step, weight in zip(names, steps, found, strict=True):
        bias = plan.nodes[name].node.inputs[2].const_value.numpy()
        assert np.abs(bias / (step * weight.scales.astype(np.float64))).max() <= 2**30 * 1.001
        assert weight.stored.min() >= INT8.low


def test_no_technique_makes_copies(rng):
    text = """g (float[n,16] x, float[n,16] z) => (float[n,16] y) {
        a = MatMul(x, w) b = MatMul(z, w) y = Add(a, b) }"""
    feeds = [
        {name: normal(rng, 32, 16) * np.geomspace(0.01, 10, 16, dtype=np.float32) for name in "xz"}
        for _ in range(4)
    ]
    found = {}
    for case, weights in (("own", text.replace("MatMul(z, w)", "MatMul(z, w2)")), ("shared", text)):
        constants = (
            {"w": normal(rng, 16, 16), "w2": normal(rng, 16, 16)}
            if case == "own"
            else {"w": normal(rng, 16, 16)}
        )
        model = normalize(to_ir(parse(weights, constants)))
        plan = make_plan(model)
        found[case] = smooth(
            model,
            plan,
            collect_moments(
                model, layer_inputs(plan).values(), as_samples(feeds), MomentOptions(second=True)
            ),
        )
    assert found["own"] is not None
    assert found["shared"] is None
