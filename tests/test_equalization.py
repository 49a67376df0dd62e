"""Equalization leaves the float model's outputs as they are, and brings the int8 model's closer."""

import numpy as np
import pytest

from onnxq.calibration.collect import collect_moments
from onnxq.equalize import equalize
from onnxq.model.normalize import normalize
from onnxq.plan import make_plan
from onnxq.techniques.equalization import equalizing_scales
from onnxq.weights import layer_inputs
from tests.conftest import as_samples, normal, parse, run, to_ir

TEXTS = {
    "plain": "a = Conv<pads=[1,1,1,1]>(x, w, b) y = Conv<pads=[1,1,1,1]>(a, v)",
    "relu": "a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) y = Conv<pads=[1,1,1,1]>(r, v)",
    "depthwise": "a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) d = Conv<pads=[1,1,1,1], group=8>(r, dw) s = Relu(d) y = Conv<pads=[1,1,1,1]>(s, v)",
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
    }
    text = "g (float[1,3,9,9] x) => (float[1,5,9,9] y) { " + TEXTS[name] + " }"
    constants = {key: np.float32(array) for key, array in constants.items() if f", {key}" in text}
    feeds = [{"x": normal(rng, 1, 3, 9, 9)} for _ in range(4)]
    model = normalize(to_ir(parse(text, constants)))
    plan = make_plan(model)
    moments = collect_moments(model, layer_inputs(plan).values(), as_samples(feeds), second=True)
    before = run(model, feeds[0])[0]
    found = equalize(model, plan, moments)
    assert found is not None
    equalized, known = found.model, found.moments
    after = run(equalized, feeds[0])[0]
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-4 * np.abs(before).max())
    again = collect_moments(equalized, layer_inputs(make_plan(equalized)).values(), as_samples(feeds), second=True)
    for layer, moment in again.items():
        np.testing.assert_allclose(known[layer].high, moment.high, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(known[layer].raw(), moment.raw(), rtol=2e-2, atol=1e-3 * np.abs(moment.raw()).max())


def test_like_channels_are_left_alone(rng):
    ones = np.ones(8)
    rows = rng.normal(size=(64, 8))
    assert equalizing_scales(-ones, ones, ones / 3, rows, np.zeros((0, 8))) is None
