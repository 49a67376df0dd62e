"""Effective ranges, and activations that are read with another scale."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.normalize.passes import normalize
from onnxq.plan.effective_range import effective_range
from onnxq.plan.plan import make_plan
from onnxq.techniques.arithmetic import clip_bounds, dequantize, quantize, ramp_params, ramp_result
from tests.conftest import Quantized, normal, parse, to_ir

CASES = {
    "r = HardSigmoid(h) y = Conv(r, v)": (-2.5, 2.5),
    "g = HardSigmoid(h) r = Mul(h, g) y = Conv(r, v)": (-2.5, np.inf),
    "r = Sigmoid(h) y = Conv(r, v)": (-6.25, 6.25),
    "g = Sigmoid(h) r = Mul(g, h) y = Conv(r, v)": (-8.0, np.inf),
    "l = LeakyRelu<alpha=0.2>(h) r = Max(l, low) y = Conv(r, v)": (-2.0, np.inf),
    "l = LeakyRelu<alpha=0.2>(h) y = Conv(l, v)": None,
    "r = HardSigmoid(h) s = Conv(r, v) t = Conv(h, v) y = Add(s, t)": None,
}


@pytest.mark.parametrize("text", list(CASES))
def test_effective_ranges(rng, text):
    constants = {"w": normal(rng, 4, 4, 1, 1), "v": normal(rng, 4, 4, 1, 1), "low": np.float32(-0.4)}
    used = {name: array for name, array in constants.items() if name in ("w", "v") or "low" in text}
    model = normalize(
        to_ir(parse("g (float[1,4,6,6] x) => (float[1,4,6,6] y) { h = Conv(x, w) " + text + " }", used))
    )
    plan = make_plan(model)
    found = effective_range(plan, plan.tensors["h"].value)
    assert found == pytest.approx(CASES[text]) if CASES[text] else found is None


@given(st.floats(-60, 1), st.floats(0, 60), st.floats(0.05, 1), st.floats(0.1, 0.9))
def test_a_ramp_is_a_clip_of_the_same_integers(low, high, alpha, beta):
    params = ramp_params(low, high, alpha, beta)
    result = ramp_result(params, alpha, beta)
    x = np.linspace(min(low, -beta / alpha), max(high, 0), 301).astype(np.float32)
    least, most = clip_bounds(result)
    found = dequantize(np.clip(quantize(x, params), least, most), result)
    step = alpha * float(params.scale)
    assert np.abs(found - np.clip(alpha * x + beta, 0, 1)).max() <= 1.01 * step + 1e-6


@pytest.mark.parametrize(
    "text",
    [
        "y = HardSwish(h)",
        "a = Add(h, three) c = Clip(a, zero, six) m = Mul(h, c) y = Div(m, six)",
        "a = Add(three, h) c = Clip(a, zero, six) m = Mul(c, h) y = Mul(m, sixth)",
        "a = Add(h, three) c = Clip(a, zero, six) d = Div(c, six) y = Mul(h, d)",
    ],
)
@pytest.mark.parametrize("qoperator", [False, True], ids=["qdq", "qoperator"])
def test_hard_swish_stays_on_integers(rng, tmp_path, text, qoperator):
    constants = {"w": normal(rng, 8, 4, 1, 1), "v": normal(rng, 4, 8, 1, 1)}
    numbers = {
        "three": np.float32(3),
        "zero": np.float32(0),
        "six": np.float32(6),
        "sixth": np.float32(1 / 6),
    }
    model = parse(
        "g (float[1,4,6,6] x) => (float[1,4,6,6] z) { h = Conv(x, w) " + text + " z = Conv(y, v) }",
        constants | {name: array for name, array in numbers.items() if name in text},
    )
    quantized = Quantized(model, [{"x": 2 * normal(rng, 1, 4, 6, 6)} for _ in range(8)], qoperator=qoperator)
    error, difference = quantized.errors()
    assert error < 0.04
    assert difference < 0.02
    kernels = quantized.kernels(tmp_path)
    assert kernels["QLinearMul"] == 1
    assert "HardSigmoid" not in kernels
    assert kernels["QuantizeLinear"] == kernels["DequantizeLinear"] == 1
