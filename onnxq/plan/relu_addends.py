"""What a Relu behind a sum lets through of an addend: a negative one counts only down to where the sum is zero."""

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
    """A value whose only use is a sum with `other`, whose only use is a clamp at zero."""

    tensor: str
    other: str

    @property
    def tensors(self) -> tuple[str, str]:
        """What its counting values are computed from."""
        return self.tensor, self.other

    def of(self, values: Mapping[str, Array]) -> Array:
        """Its values, from those of both addends: each as close to zero as it can be at the same result."""
        return self.counting(values[self.tensor], values[self.other])

    @staticmethod
    def counting(addend: Array, other: Array) -> Array:
        """`addend` where the sum is positive; elsewhere what makes it zero, or 0 where `other` is negative already.

        With both addends of a sum changed so, or either, the clamp's result is still the same.
        """
        if addend.shape != other.shape:  # one is repeated over the other
            return addend
        least = np.negative(other)
        np.minimum(least, 0, out=least)
        return np.asarray(np.maximum(addend, least, out=least))


def find_addends(model: ir.Model, names: Iterable[str]) -> dict[str, Addend]:
    """Those of the named values that are such addends, by name."""
    wanted, found = set(names), {}
    for graph in model.graphs():
        for node in graph:
            clamp = (
                only_use(node.outputs[0])
                if node.op_type == "Add" and node.domain in ("", "ai.onnx")
                else None
            )
            bounds = clamp_bounds(clamp) if clamp is not None else None
            if bounds is None or bounds[0] != 0 or len(node.inputs) != 2:
                continue
            for value, other in (node.inputs, node.inputs[::-1]):
                if (
                    value is not None
                    and value.name in wanted
                    and only_use(value) is node
                    and _computed(other)
                ):
                    found[value.name] = Addend(value.name, other.name or "")
    return found


def _computed(value: ir.Value | None) -> TypeGuard[ir.Value]:
    return value is not None and value.producer() is not None and not is_constant(value)
