"""Gelus by Erf become the runtime's operator by tanh."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.formats.gelu import fuse_gelu
from tests.conftest import parse, run

SCALARS = {"root": np.float32(np.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)}
FORMS = {
    "single operators": ("d = Div(x, root) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, half)", 17),
    "one operator": ("y = Gelu(x)", 20),
    "half first": ("h = Mul(x, half) d = Div(x, root) e = Erf(d) a = Add(e, one) y = Mul(h, a)", 17),
}


@pytest.mark.parametrize(("body", "opset"), FORMS.values(), ids=FORMS)
def test_the_curve_stays_within_half_a_thousandth(body, opset):
    model = parse(f"g (float[N,4] x) => (float[N,4] y) {{ {body} }}", SCALARS, opset=opset)
    fused = ir.from_proto(model)
    assert fuse_gelu(fused)
    assert [node.op_type for node in fused.graph] == ["FastGelu"]
    x = {"x": np.linspace(-20, 20, 40_000, dtype=np.float32).reshape(-1, 4)}
    np.testing.assert_allclose(run(fused, x)[0], run(model, x)[0], atol=5e-4)


@pytest.mark.parametrize(
    "body", ['y = Gelu<approximate="tanh">(x)', "d = Div(x, one) e = Erf(d) a = Add(e, one) y = Mul(x, a)"]
)
def test_other_curves_stay(body):
    model = ir.from_proto(parse(f"g (float[N,4] x) => (float[N,4] y) {{ {body} }}", SCALARS, opset=20))
    assert not fuse_gelu(model)
