"""Each pass returns whether it modified the model, and does nothing to a normalized model."""

import numpy as np
import onnx_ir as ir

from onnxq.graph.files import load
from onnxq.normalize.passes import INLINING, PASSES, normalize
from tests.conftest import CNN, normal, parse, to_ir

GENERAL = """g (float[N,3,6,6] x) => (float[N,4] y) {
    i = Identity(x) d = Dropout(i) c = Conv<pads=[1,1,1,1]>(d, w) s = Mul(c, k) r = Max(s, zero)
    m = ReduceMean<axes=[2,3], keepdims=0>(r) p = MatMul(m, v) y = Add(p, b) }"""


def general(rng):
    constants = {
        "w": normal(rng, 4, 3, 3, 3),
        "k": np.abs(normal(rng, 1, 4, 1, 1)) + 0.1,
        "zero": np.float32(0),
    }
    return to_ir(parse(GENERAL, constants | {"v": normal(rng, 4, 4), "b": normal(rng, 4)}))


def content(model):
    return ir.serde.serialize_model(model).SerializeToString(deterministic=True)


def test_a_pass_that_changes_a_model_says_so(rng):
    model = general(rng)
    said = []
    for step in INLINING + PASSES:
        before = content(model)
        modified = step(model)
        assert isinstance(modified, bool)
        assert modified or content(model) == before
        said.append(modified)
    assert any(said)
    assert [node.op_type for node in model.graph] == ["Conv", "Clip", "GlobalAveragePool", "Flatten", "Gemm"]


def test_a_normalized_model_is_left_as_it_is():
    model = normalize(load(CNN))
    before = content(model)
    assert not any(step(model) for step in INLINING + PASSES)
    assert content(model) == before
