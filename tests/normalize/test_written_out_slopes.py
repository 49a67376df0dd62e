"""LeakyRelu and PRelu written out with other operators."""

import numpy as np
import pytest

from onnxq.normalize.passes import normalize
from onnxq.runtime.sessions import open_session, run
from tests.conftest import normal, parse, to_ir

FORMS = {
    "of Relus": "p = Relu(x) m = Neg(x) r = Relu(m) s = Mul(r, slope) y = Sub(p, s)",
    "of Relus, negative slope": "p = Relu(x) m = Neg(x) r = Relu(m) n = Neg(r) s = Mul(slope, n) y = Add(s, p)",
    "of Abs": "p = Relu(x) a = Abs(x) d = Sub(x, a) s = Mul(d, slope) h = Mul(s, half) y = Add(p, h)",
    "of Abs, divided": "p = Relu(x) a = Abs(x) d = Sub(x, a) s = Mul(slope, d) h = Div(s, two) y = Add(h, p)",
}


def normalized(body, rng, slope, **constants):
    """Normalize a network with an activation between two convolutions; check its values, return operators."""
    text = f"""g (float[1,3,8,8] in) => (float[1,3,8,8] out) {{
        x = Conv<pads=[1,1,1,1]>(in, w) {body} out = Conv<pads=[1,1,1,1]>(y, v) }}"""
    weights = {"w": normal(rng, 3, 3, 3, 3), "v": normal(rng, 3, 3, 3, 3), "slope": slope}
    weights |= {"half": np.float32(0.5), "two": np.float32(2)} | constants
    proto, feeds = parse(text, weights), {"in": normal(rng, 1, 3, 8, 8)}
    model = normalize(to_ir(proto))
    (before,), (after,) = (run(open_session(each), feeds, "x") for each in (to_ir(proto), model))
    assert np.allclose(before, after, rtol=1e-4, atol=1e-4)
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("one_slope", [True, False])
def test_each_form_becomes_one_operator(form, one_slope, rng):
    slope = np.float32([0.2, 0.2, 0.2] if one_slope else [0.2, -0.1, 1.5]).reshape(3, 1, 1)
    found = normalized(FORMS[form], rng, slope)
    assert found == ["Conv", "LeakyRelu" if one_slope else "PRelu", "Conv"]


@pytest.mark.parametrize(
    "body",
    [
        "p = Relu(x) m = Neg(x) r = Relu(m) s = Mul(r, slope) u = Sub(p, s) y = Add(u, r)",  # another slope
        "p = Relu(x) m = Neg(x) r = Relu(m) s = Mul(r, slope) u = Add(p, p) y = Sub(u, s)",  # 2 for x > 0
        "p = Relu(x) m = Neg(x) r = Relu(m) s = Mul(r, row) y = Sub(p, s)",  # a slope per column
        "p = Relu(x) m = Neg(in) r = Relu(m) s = Mul(r, slope) y = Sub(p, s)",  # of another value
    ],
)
def test_other_sums_keep_their_values(body, rng):
    normalized(body, rng, np.float32([0.2, -0.1, 1.5]).reshape(3, 1, 1), row=normal(rng, 8))


def test_values_that_others_use_stay(rng):
    body = "p = Relu(x) m = Neg(x) r = Relu(m) s = Mul(r, slope) u = Sub(p, s) t = Tanh(s) y = Mul(u, t)"
    assert "PRelu" not in normalized(body, rng, np.float32([0.2, -0.1, 1.5]).reshape(3, 1, 1))
