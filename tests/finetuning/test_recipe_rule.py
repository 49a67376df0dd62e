"""The recipe for a gradient rule: one function, and its entry in RULES."""

import numpy as np
import pytest

from onnxq.finetuning.rules.rule import first
from onnxq.finetuning.rules.table import RULES

from .differences import gradients, single

X = np.array([[1.0, -2.0, 3.0]], np.float32)


def passed_to_the_largest(tape, node, outputs):
    """Hardmax, as if it were its own operand."""
    return [tape.op("Mul", first(outputs), node.outputs[0])]


def test_a_registered_rule_is_used(monkeypatch):
    model = single("Hardmax", {"x": X})
    found, frozen = gradients(model, {"x": X}, [np.ones_like(X)])
    assert found == {}
    assert list(frozen.values()) == ["Hardmax has no rule"]
    monkeypatch.setitem(RULES, "Hardmax", passed_to_the_largest)
    found, frozen = gradients(model, {"x": X}, [np.ones_like(X)])
    assert frozen == {}
    assert found["x"] == pytest.approx(np.array([[0, 0, 1]]))
