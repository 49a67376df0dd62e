"""Addends of a sum behind a Relu: negative values count only down to the point where the sum is zero."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import is_constant, only_use
from onnxq.plan.constraints import clamp_bounds
from onnxq.types import Array


@dataclass(frozen=True)
class Addend:
    """A value whose only use is a sum; the only use of the sum is a clamp at zero.

    tensor  name of the value
    other   name of the other addend
    """

    tensor: str
    other: str

    @property
    def tensors(self) -> tuple[str, str]:
        """Names of the tensors from which the effective values are computed."""
        return self.tensor, self.other

    def of(self, values: Mapping[str, Array]) -> Array:
        """Return the effective values of the addend, from the values of both addends."""
        return self.effective(values[self.tensor], values[self.other])

    @staticmethod
    def effective(addend: Array, other: Array) -> Array:
        """Move an addend as close to zero as the clamp's result allows.

        Where the sum is positive the addend stays. Elsewhere it becomes the value that makes the sum zero,
        or 0 if `other` is negative. The clamp's result is the same whether one addend or both are replaced.
        """
        if addend.shape != other.shape:  # one addend is broadcast
            return addend
        least = np.negative(other)
        np.minimum(least, 0, out=least)
        return np.asarray(np.maximum(addend, least, out=least))


def find_addends(model: ir.Model, names: Iterable[str]) -> dict[str, Addend]:
    """Find the named values that are addends of a sum behind a clamp at zero, by name."""
    wanted = set(names)
    found: dict[str, Addend] = {}
    for graph in model.graphs():
        for node in graph:
            if not _is_clamped_sum(node):
                continue
            for value, other in (node.inputs, node.inputs[::-1]):
                if value is None or value.name not in wanted or only_use(value) is not node:
                    continue
                if _computed(other):
                    found[value.name] = Addend(value.name, other.name or "")
    return found


def _is_clamped_sum(node: ir.Node) -> bool:
    """Tell whether a node is an Add of two values whose only use is a clamp at zero."""
    if node.op_type != "Add" or node.domain not in ("", "ai.onnx") or len(node.inputs) != 2:
        return False
    clamp = only_use(node.outputs[0])
    bounds = clamp_bounds(clamp) if clamp is not None else None
    return bounds is not None and bounds[0] == 0


def _computed(value: ir.Value | None) -> TypeGuard[ir.Value]:
    """Tell whether a value is the result of a node, neither an input nor a constant."""
    return value is not None and value.producer() is not None and not is_constant(value)
