import numpy as np
import pytest

from onnxq.errors import ModelError
from onnxq.plan.finite_weights import check_weights
from tests.conftest import normal, parse, to_ir

PRODUCT = "g (float[M,4] x) => (float[M,4] y) { y = MatMul(x, c) }"
NORMALIZED = "g (float[1,4,2,2] x) => (float y) { y = BatchNormalization(x, c, c, c, c) }"
INSIDE = """g (float[M,4] x, bool b) => (float[M,4] y) { y = If(b)<
    then_branch = t () => (float[M,4] p) { p = MatMul(x, c) }, else_branch = e () => (float[M,4] q) { q = Relu(x) }> }"""
RECURRENT = "g (float[3,1,4] x) => (float y) { y = LSTM<hidden_size = 4>(x, w, w, c) }"


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("text", "shape"), [(PRODUCT, (4, 4)), (NORMALIZED, (4,)), (INSIDE, (4, 4)), (RECURRENT, (1, 32))]
)
def test_a_weight_that_is_no_number_is_named(rng, text, shape, wrong):
    array = normal(rng, *shape)
    array.flat[1] = wrong
    kind = "NaN" if np.isnan(wrong) else "infinite"
    with pytest.raises(ModelError, match=f"weight 'c' has 1 {kind} value"):
        check_weights(to_ir(parse(text, {"c": array, "w": normal(rng, 1, 16, 4)})))


@pytest.mark.parametrize("op", ["Add", "Mul", "Sub"])
def test_masks_may_be_infinite_but_not_nan(op):
    text = f"g (float[M,4] x) => (float[M,4] y) {{ y = {op}(x, c) }}"
    check_weights(to_ir(parse(text, {"c": np.float32([0, -np.inf, 1e30, np.inf])})))
    with pytest.raises(ModelError, match="1 NaN value"):
        check_weights(to_ir(parse(text, {"c": np.float32([0, np.nan, 1, 1])})))


def test_what_is_read_by_no_weighted_operator_is_not_looked_at():
    text = "g (float[4] x, bool[4] b) => (float[4] y) { y = Where(b, x, c) }"
    check_weights(to_ir(parse(text, {"c": np.float32([0, np.nan, 1, 1])})))
