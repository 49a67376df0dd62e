"""Interface of a model: what a program that calls it relies on, the same in every written file."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import onnx
import onnx_ir as ir

MAP_TYPES = "map types"
"""Key in a loaded model's `meta` of the types of outputs that onnx_ir cannot represent."""

OVERRIDABLE_FROM = 4
"""The first version of the format in which an initializer that is listed as an input is a default."""

Sizes = tuple[int | str | None, ...] | None
"""Numbers and names of a shape; None for an unknown rank."""


@dataclass(frozen=True)
class Port:
    """An input or output."""

    name: str
    type: ir.TypeProtocol | None
    sizes: Sizes

    @staticmethod
    def of(value: ir.Value) -> "Port":
        """Return the port of a value."""
        shape = value.shape
        sizes = (
            None if shape is None else tuple(size if isinstance(size, int) else size.value for size in shape)
        )
        return Port(value.name or "", value.type, sizes)

    def describe(self) -> str:
        """Return a text such as `x FLOAT[N,3]`."""
        dtype = "?" if self.type is None else self.type.dtype.name
        inside = "..." if self.sizes is None else ",".join("?" if s is None else str(s) for s in self.sizes)
        return f"{self.name} {dtype}[{inside}]"

    def allows(self, other: "Port") -> bool:
        """Whether another port has the same name and type, and each size that is known here."""
        if (self.name, self.type or other.type) != (other.name, other.type):
            return False
        if self.sizes is None:
            return True
        return (
            other.sizes is not None
            and len(self.sizes) == len(other.sizes)
            and all(a == b for a, b in zip(self.sizes, other.sizes, strict=True) if isinstance(a, int))
        )


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs in order, and the inputs that have a default, which a caller may replace."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    overridable: frozenset[str]
    maps: dict[str, onnx.TypeProto] = field(default_factory=dict)

    @staticmethod
    def of(model: ir.Model) -> "Interface":
        """Return a model's interface.

        Before version 4 of the format every initializer is listed as an input, and none can be replaced.
        """
        inputs, defaults = list(model.graph.inputs), []
        if model.ir_version < OVERRIDABLE_FROM:
            inputs = [value for value in inputs if value.const_value is None]
        else:
            defaults = [value.name or "" for value in inputs if value.const_value is not None]
        maps = model.meta.get(MAP_TYPES, {})
        return Interface(_ports(inputs), _ports(model.graph.outputs), frozenset(defaults), maps)

    def with_sizes_of(self, model: ir.Model) -> "Interface":
        """Return the interface with the output sizes of a normalized model, which contradict no operator."""
        outputs = [
            replace(port, sizes=Port.of(value).sizes)
            for port, value in zip(self.outputs, model.graph.outputs, strict=True)
        ]
        return replace(self, outputs=tuple(outputs))

    def difference(self, model: ir.Model) -> str:
        """Return how a model's interface differs; an empty text if it does not."""
        other = Interface.of(model)
        if self.inputs != other.inputs:
            return f"its inputs {_list(self.inputs)} became {_list(other.inputs)}"
        if len(self.outputs) != len(other.outputs) or not all(
            mine.allows(its) for mine, its in zip(self.outputs, other.outputs, strict=True)
        ):
            return f"its outputs {_list(self.outputs)} became {_list(other.outputs)}"
        if self.overridable != other.overridable:
            changed = ", ".join(sorted(self.overridable ^ other.overridable))
            return f"the inputs with a default differ: {changed}"
        return ""


def _ports(values: Iterable[ir.Value]) -> tuple[Port, ...]:
    return tuple(Port.of(value) for value in values)


def _list(ports: tuple[Port, ...]) -> str:
    return ", ".join(port.describe() for port in ports) or "none"
