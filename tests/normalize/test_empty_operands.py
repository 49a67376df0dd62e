"""Empty constants of Concat, which crash older runtimes."""

import numpy as np
import pytest

from onnxq.normalize.empty_operands import drop_empty_operands
from tests.conftest import normal, parse, run, to_ir

OLD, NEW = (1, 23), (1, 24)


def concat(axis, **constants):
    names = ", ".join(constants)
    text = f"g (float[2,3] x) => (float[M,K] y) {{ y = Concat<axis={axis}>({names.replace('none', 'x, none')}) }}"
    return to_ir(parse(text, constants))


@pytest.mark.parametrize("axis", [0, -2])
def test_an_empty_constant_is_dropped_for_old_runtimes_only(axis, rng):
    model = concat(axis, none=np.zeros((0, 3), np.float32), other=normal(rng, 1, 3))
    feeds = {"x": normal(rng, 2, 3)}
    before = run(model, feeds)[0]
    assert not drop_empty_operands(model, NEW)
    assert drop_empty_operands(model, OLD)
    assert not drop_empty_operands(model, OLD)
    assert [value.name for value in next(iter(model.graph)).inputs] == ["x", "other"]
    assert np.array_equal(run(model, feeds)[0], before)


def test_a_single_operand_may_remain(rng):
    model = concat(0, none=np.zeros((0, 3), np.float32))
    assert drop_empty_operands(model, OLD)
    assert [node.op_type for node in model.graph] == ["Identity"]
    assert np.array_equal(run(model, {"x": np.ones((2, 3), np.float32)})[0], np.ones((2, 3)))


def test_an_operand_that_is_empty_along_another_axis_adds_to_the_shape():
    model = concat(0, a=np.zeros((2, 0), np.float32), b=np.zeros((3, 0), np.float32))
    assert not drop_empty_operands(model, OLD)
    assert run(model, {"x": np.ones((2, 3), np.float32)})[0].shape == (5, 0)


def test_operands_that_are_all_empty_stay():
    model = concat(0, a=np.zeros((0, 3), np.float32), b=np.zeros((0, 3), np.float32))
    assert not drop_empty_operands(model, OLD)
