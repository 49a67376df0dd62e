"""Equalization leaves the float model's outputs as they are, and brings the int8 model's closer."""

import numpy as np
import pytest

from onnxq.calibration.collect import Collecting, MomentOptions, collect, collect_moments
from onnxq.normalize.passes import normalize
from onnxq.plan.plan import make_plan
from onnxq.quantization.weights import layer_inputs
from onnxq.techniques.equalization import equalizing_scales
from onnxq.transforms.equalization import equalize
from tests.conftest import as_samples, normal, parse, run, to_ir

TEXTS = {
    "plain": "a = Conv<pads=[1,1,1,1]>(x, w, b) y = Conv<pads=[1,1,1,1]>(a, v)",
    "relu": "a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) y = Conv<pads=[1,1,1,1]>(r, v)",
    "depthwise": "a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) d = Conv<pads=[1,1,1,1], group=8>(r, dw) s = Relu(d) y = Conv<pads=[1,1,1,1]>(s, v)",
    "prelu": "a = Conv<pads=[1,1,1,1]>(x, w, b) r = PRelu(a, slope) y = Conv<pads=[1,1,1,1]>(r, v)",
    "leaky, pooled": "a = Conv<pads=[1,1,1,1]>(x, w, b) r = LeakyRelu<alpha=0.3>(a) p = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(r) y = Conv<pads=[1,1,1,1]>(p, v)",
    "averaged": "a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) p = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(r) y = Conv<pads=[1,1,1,1]>(p, v)",
    "two takers": "a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) p = Conv<pads=[1,1,1,1]>(r, v) q = Conv<pads=[1,1,1,1]>(r, v2) y = Add(p, q)",
}


@pytest.mark.parametrize("name", list(TEXTS))
def test_the_float_model_computes_the_same(rng, name):
    weight = normal(rng, 8, 3, 3, 3) * np.geomspace(0.02, 2, 8, dtype=np.float32).reshape(8, 1, 1, 1)
    constants = {
        "w": weight,
        "b": normal(rng, 8) * np.geomspace(0.02, 2, 8),
        "v": normal(rng, 5, 8, 3, 3),
        "v2": normal(rng, 5, 8, 3, 3),
        "dw": normal(rng, 8, 1, 3, 3),
        "slope": np.linspace(-0.2, 1, 8).reshape(8, 1, 1),
    }
    text = "g (float[1,3,9,9] x) => (float[1,5,9,9] y) { " + TEXTS[name] + " }"
    constants = {key: np.float32(array) for key, array in constants.items() if f", {key}" in text}
    feeds = [{"x": normal(rng, 1, 3, 9, 9)} for _ in range(4)]
    model = normalize(to_ir(parse(text, constants)))
    plan = make_plan(model)
    moments = collect_moments(
        model, layer_inputs(plan).values(), as_samples(feeds), MomentOptions(second=True)
    )
    before = run(model, feeds[0])[0]
    found = equalize(model, plan, moments)
    assert found is not None
    again_planned = make_plan(found.model)
    assert {name for name in again_planned.sources() if name not in plan.sources()} == set(found.divided)
    values = collected(model, plan.sources(), feeds, found.divided)
    measured = collected(found.model, again_planned.sources(), feeds, {})
    for tensor in found.divided:
        assert values[tensor] == pytest.approx(measured[tensor], rel=1e-4)
    equalized, known = found.model, found.moments
    after = run(equalized, feeds[0])[0]
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-4 * np.abs(before).max())
    again = collect_moments(
        equalized, layer_inputs(make_plan(equalized)).values(), as_samples(feeds), MomentOptions(second=True)
    )
    for layer, moment in again.items():
        np.testing.assert_allclose(known[layer].high, moment.high, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(
            known[layer].raw(), moment.raw(), rtol=2e-2, atol=1e-3 * np.abs(moment.raw()).max()
        )


def collected(model, names, feeds, divided):
    """Least and largest value of each tensor."""
    statistics = collect(model, names, as_samples(feeds), "", Collecting(divided=divided))
    return {name: (sketch.minimum, sketch.maximum) for name, sketch in statistics.sketches.items()}


@pytest.mark.parametrize(
    "text", ["r = PRelu(a, slopes)", "h = Mul(a, half) r = Relu(h)", "r = Relu(a) z = Identity(r)"]
)
def test_what_factors_cannot_pass_is_left_alone(rng, text):
    constants = {
        "w": normal(rng, 8, 3, 3, 3) * np.geomspace(0.02, 2, 8, dtype=np.float32).reshape(8, 1, 1, 1),
        "v": normal(rng, 5, 8, 3, 3),
    }
    numbers = {"slopes": normal(rng, 8, 7, 7), "half": np.full((1, 1, 7, 7), 0.5, np.float32)}
    outputs = "float[1,5,5,5] y" + (", float[1,8,7,7] z" if "z =" in text else "")
    used = constants | {name: array for name, array in numbers.items() if name in text}
    model = normalize(
        to_ir(
            parse(
                "g (float[1,3,9,9] x) => (" + outputs + ") { a = Conv(x, w) " + text + " y = Conv(r, v) }",
                used,
            )
        )
    )
    plan = make_plan(model)
    moments = collect_moments(
        model,
        layer_inputs(plan).values(),
        as_samples([{"x": normal(rng, 1, 3, 9, 9)}]),
        MomentOptions(second=True),
    )
    assert equalize(model, plan, moments) is None


def test_what_lies_in_front_of_a_leaky_relu_counts_too(rng):
    """Left of zero it is wider by the inverse of the slope: factors that suit the result alone would ruin it."""
    high = np.geomspace(0.01, 1, 8)
    rows, none = np.ones((64, 8)), np.zeros((0, 8))
    alone = equalizing_scales(0 * high, high, high**2 / 3, rows, none)
    both = equalizing_scales(
        np.stack([0 * high, np.full(8, -50.0)]), np.stack([high, high]), high**2 / 3, rows, none
    )
    assert alone is not None
    assert both is None or np.ptp(np.log(both)) < 0.5 * np.ptp(np.log(alone))


def test_like_channels_are_left_alone(rng):
    ones = np.ones(8)
    rows = rng.normal(size=(64, 8))
    assert equalizing_scales(-ones, ones, ones / 3, rows, np.zeros((0, 8))) is None
