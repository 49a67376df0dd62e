import numpy as np
import pytest

from onnxq.calibration.collect import MomentOptions, collect_moments
from onnxq.normalize.passes import normalize
from onnxq.plan.plan import make_plan
from onnxq.quantization.weights import layer_inputs
from onnxq.techniques.smoothing import expected_noise, smoothing_scales
from onnxq.transforms.channel_scaling import divide_channels
from onnxq.transforms.smoothquant import smooth
from tests.conftest import Quantized, as_samples, normal, parse, run, to_ir


def channels(rng, *, outlier):
    x = rng.normal(size=(500, 32)).astype(np.float32)
    x[:, 3] *= outlier
    return x


def scales_for(x, rows):
    return smoothing_scales(x.min(axis=0), x.max(axis=0), np.square(x).mean(axis=0), rows)


def real_noise(x, rows, scales):
    """Squared error of x W^T with both operands rounded to 8 bits."""
    divided, scaled = x / scales, rows * scales
    low, high = min(0, divided.min()), max(0, divided.max())
    step, weight_steps = (high - low) / 255, np.abs(scaled).max(axis=1, keepdims=True) / 127
    rounded = np.rint(divided / step) * step @ (np.rint(scaled / weight_steps) * weight_steps).T
    return np.square(rounded - x @ rows.T).sum(axis=1).mean()


def test_an_outlying_channel_is_smoothed_and_the_real_noise_falls(rng):
    x, rows = channels(rng, outlier=50), normal(rng, 24, 32)
    scales = scales_for(x, rows)
    assert scales is not None
    assert scales[3] > 3 * np.median(scales)
    assert real_noise(x, rows, scales) < 0.2 * real_noise(x, rows, np.ones(32))


def test_even_channels_are_left_alone(rng):
    assert scales_for(channels(rng, outlier=1), normal(rng, 24, 32)) is None


def test_expected_noise_is_that_of_real_rounding(rng):
    for outlier in (1, 8, 50):
        x, rows = channels(rng, outlier=outlier), normal(rng, 24, 32)
        expected = expected_noise(x.min(axis=0), x.max(axis=0), np.square(x).mean(axis=0), rows, np.ones(32))
        assert expected == pytest.approx(real_noise(x, rows, np.ones(32)), rel=0.25)


def test_dead_channels_and_weights_do_no_harm(rng):
    x, rows = channels(rng, outlier=50), normal(rng, 24, 32)
    x[:, 5], rows[:, 7] = 0, 0
    scales = scales_for(x, rows)
    assert np.isfinite(scales).all()
    assert scales[5] == scales[7] == 1
    assert smoothing_scales(np.zeros(4), np.zeros(4), np.zeros(4), np.zeros((2, 4))) is None


TEXT = """g (float[N,3,8] x) => (float[N,3,6] a, float[N,3,5] b, float[N,3,8] r) {
    n = Tanh(x)  a = MatMul(n, w)  p = MatMul(n, v)  b = Add(p, c)  r = Neg(n) }"""


def test_dividing_changes_nothing_but_the_range(rng):
    model = parse(TEXT, {"w": normal(rng, 8, 6), "v": normal(rng, 8, 5), "c": normal(rng, 5)})
    feeds = {"x": normal(rng, 2, 3, 8)}
    before = run(model, feeds)
    normalized = normalize(to_ir(model))
    products = [node.name for node in normalized.graph if node.op_type == "MatMul"]
    name = divide_channels(normalized, "n", products, np.float32([1, 2, 3, 4, 5, 6, 7, 8]))
    assert {node.inputs[0].name for node in normalized.graph if node.op_type == "MatMul"} == {name}
    for want, have in zip(before, run(normalized, feeds), strict=True):
        assert np.abs(want - have).max() < 1e-5


def test_a_layer_norm_with_an_outlier_is_smoothed_as_a_whole(rng):
    text = """g (float[N,5,16] x) => (float[N,5,12] y) {
        n = LayerNormalization<axis=-1>(x, g, b)  h = MatMul(n, w)  t = Tanh(h)  y = MatMul(t, v) }"""
    gain = np.ones(16, np.float32)
    gain[2] = 40
    weights = normal(rng, 16, 24) / 4
    weights[2] /= 40
    model = parse(text, {"g": gain, "b": normal(rng, 16), "w": weights, "v": normal(rng, 24, 12)})
    data = [{"x": normal(rng, 2, 5, 16)} for _ in range(12)]
    normalized = normalize(to_ir(model))
    plan = make_plan(normalized)
    changed = smooth(
        normalized,
        plan,
        collect_moments(
            normalized, layer_inputs(plan).values(), as_samples(data), MomentOptions(second=True)
        ),
    )
    assert changed is not None
    smoothed, moments = changed.model, changed.moments
    assert len(moments) == 3
    assert sum(node.op_type == "Mul" for node in smoothed.graph) == 1
    import onnx_ir as ir

    plain = Quantized(model, data).errors()[0]
    better = Quantized(ir.serde.serialize_model(smoothed), data).errors()[0]
    assert better < 0.6 * plain


def test_moments_of_divided_inputs(rng):
    from onnxq.calibration.moments import LayerInput, Moments

    x = rng.normal(size=(400, 1, 6)).astype(np.float32)
    scales = np.float32([1, 2, 4, 0.5, 3, 1])
    whole, divided = (Moments.of(LayerInput("x", 1, 6), second=True) for _ in range(2))
    whole.add(x)
    divided.add(x / scales)
    made = whole.divided(scales)
    assert made.covariance() == pytest.approx(divided.covariance(), rel=1e-3, abs=1e-4)
    assert made.mean() == pytest.approx(divided.mean(), abs=1e-5)
    assert (made.low, made.high) == (pytest.approx(divided.low), pytest.approx(divided.high))
    assert made.second is whole.second  # as large as weights are: one is enough
    assert made.divided(scales).raw() == pytest.approx(whole.raw() / np.outer(scales, scales) ** 2, rel=1e-4)
