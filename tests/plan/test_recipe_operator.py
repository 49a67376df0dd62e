"""The recipe for an operator: one row in OPERATORS."""

import numpy as np
import onnx
import pytest

import onnxq
from onnxq.plan.operators import OPERATORS, Operator, Role
from tests.conftest import Quantized, normal, parse

TEXT = "g (float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Conv(x, w) b = OPERATOR y = Conv(b, v) }"
GATHER = Operator("GatherElements", Role.VIEW, "GatherElements")
CASES = {
    "GatherElements": (GATHER, "GatherElements<axis=2>(a, index)"),
    "LeakyRelu": (OPERATORS["LeakyRelu"], "LeakyRelu<alpha=0.1>(a)"),
}
"""A row of each role that a new operator may have, and the operator in ONNX text."""


@pytest.fixture(params=CASES)
def case(request, monkeypatch, rng):
    """A row that is not in the table, and a model with its operator."""
    row, operator = CASES[request.param]
    monkeypatch.delitem(OPERATORS, row.op_type, raising=False)
    constants = {"w": normal(rng, 4, 4, 1, 1), "v": normal(rng, 4, 4, 1, 1)}
    if "index" in operator:
        constants["index"] = rng.integers(0, 8, (1, 4, 8, 8))
    return row, parse(TEXT.replace("OPERATOR", operator), constants)


@pytest.mark.parametrize("qoperator", [False, True], ids=["qdq", "qoperator"])
def test_one_row_makes_an_operator_integer(case, monkeypatch, rng, tmp_path, qoperator):
    row, model = case
    feeds = [{"x": normal(rng, 1, 4, 8, 8)} for _ in range(3)]
    before = Quantized(model, feeds, qoperator=qoperator)
    reasons = {node.op_type: str(reason) for node, reason in before.plan.floats.values()}
    assert reasons == {row.op_type: f"the runtime has no integer kernel for {row.op_type}"}

    monkeypatch.setitem(OPERATORS, row.op_type, row)
    after = Quantized(model, feeds, qoperator=qoperator)
    assert [planned.row for planned in after.plan.nodes.values()][1] is row
    assert not after.plan.floats
    written = [node.op_type for node in after.model.graph]
    assert written.count("DequantizeLinear") == (1 if qoperator else 6)
    counts = after.kernels(tmp_path)
    assert counts[row.kernel] == 1
    assert counts["QuantizeLinear"] == counts["DequantizeLinear"] == 1
    error, difference = after.errors()
    assert error < 0.06
    assert difference < 0.012


def test_a_row_counts_for_the_command(case, monkeypatch, rng, tmp_path):
    row, model = case
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    for i in range(8):
        np.save(tmp_path / "calib" / f"{i}.npy", normal(rng, 1, 4, 8, 8))
    options = {"skip_slow_nodes": False, "effort": onnxq.Effort.FAST, "force": True}
    before = onnxq.quantize(tmp_path / "model.onnx", tmp_path / "calib", **options)
    assert [group.op_type for group in before.floats] == [row.op_type]
    monkeypatch.setitem(OPERATORS, row.op_type, row)
    after = onnxq.quantize(tmp_path / "model.onnx", tmp_path / "calib", **options)
    assert not after.floats
    assert after.kernels.counts[row.kernel] == 1
