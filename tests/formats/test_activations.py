"""Slow activations are written as other operators with the same values."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.formats.activations import replace_slow_activations
from onnxq.graph.shapes import infer_shapes
from tests.conftest import normal, parse, run, to_ir

SLOPES = {
    "below 1": np.linspace(-1.5, 1.0, 8),
    "above 1": np.linspace(1.0, 3.0, 8),
    "both": np.linspace(-1.5, 2.0, 8),
}
WIDE = "float[1,8,16,16]"


def model_of(kind, text, **constants):
    model = to_ir(parse(f"g ({kind} x) => (float y) {{ {text} }}", constants, opset=18))
    infer_shapes(model)
    return model


def operators(model):
    return [node.op_type for node in model.graph]


def feeds(rng, *shape):
    x = normal(rng, *shape) * 10
    x.flat[:5] = 0.0, -0.0, 60.0, -60.0, 1e-6
    return {"x": x}


@pytest.mark.parametrize("kind", [WIDE, "float[N,8,16,16]", "float[N,8,H,W]"])
@pytest.mark.parametrize("name", list(SLOPES))
def test_prelu_keeps_every_bit(rng, name, kind):
    slope = SLOPES[name].astype(np.float32).reshape(8, 1, 1)
    model = model_of(kind, "y = PRelu(x, a)", a=slope)
    given = feeds(rng, 1, 8, 16, 16)
    (before,) = run(model, given)
    assert replace_slow_activations(model)
    assert "PRelu" not in operators(model)
    assert np.array_equal(run(model, given)[0], before)


@pytest.mark.parametrize("text", ["y = Mish(x)", "a = Softplus(x) b = Tanh(a) y = Mul(x, b)"])
def test_mish(rng, text):
    model = model_of(WIDE, text)
    given = feeds(rng, 1, 8, 16, 16)
    (before,) = run(model, given)
    assert replace_slow_activations(model)
    assert not {"Mish", "Softplus", "Tanh"} & set(operators(model))
    np.testing.assert_allclose(run(model, given)[0], before, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("float[N,8,2,2]", "y = PRelu(x, a)"),  # small
        (WIDE, "s = Tanh(a) t = Mul(s, x) y = PRelu(x, t)"),  # computed slopes
        (WIDE, "y = Softplus(x)"),
        (WIDE, "b = Softplus(x) c = Tanh(b) d = Mul(x, c) y = Add(d, b)"),  # the Softplus is used elsewhere
        (WIDE, "b = Softplus(x) c = Tanh(b) y = Mul(c, c)"),
    ],
)
def test_others_stay(kind, text):
    used = {"a": np.full((8, 1, 1), 0.5, np.float32)} if "a)" in text else {}
    model = model_of(kind, text, **used)
    before = operators(model)
    assert not replace_slow_activations(model)
    assert operators(model) == before


def test_in_bodies(rng):
    body = "g (float[1,8,16,16] x, bool c) => (float y) { y = If (c) <then_branch = t () => (float[1,8,16,16] p) { p = PRelu(x, a) }, else_branch = e () => (float[1,8,16,16] q) { q = Tanh(x) }> }"  # fmt: skip
    slope = np.linspace(-1.5, 1.0, 8, dtype=np.float32).reshape(8, 1, 1)
    model = ir.from_proto(parse(body, {"a": slope}, opset=18))
    infer_shapes(model)
    given = feeds(rng, 1, 8, 16, 16) | {"c": np.array(True)}
    (before,) = run(model, given)
    assert replace_slow_activations(model)
    assert np.array_equal(run(model, given)[0], before)
