"""The tape: measured shapes and values of a graph, and the nodes that rules append to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import Names, add_initializer, add_node, attribute, constant, input_at
from onnxq.graph.shapes import opset_of
from onnxq.types import Array

LEAST_OPSET = 11
"""First opset whose operators are those that rules append: Pad with inputs, Equal of floats."""
AXES_OPSET = 13
"""First opset whose ReduceSum takes its axes as an input, and whose Softmax has one axis."""
Operand = ir.Value | Array | float
"""An operand of a new node: a value of the graph, or a constant; a float is a float32 scalar."""


class NoRuleError(Exception):
    """A node has a form that its rule does not know; the message says which."""


@dataclass
class Tape:
    """A graph under differentiation.

    model   the model that new nodes are appended to
    shapes  sizes of each value in one run, by name
    known   arrays of the values that do not depend on the data of the inputs, by name
    wanted  values that need a gradient: float values behind something that is trained
    """

    model: ir.Model
    shapes: Mapping[str, tuple[int, ...]]
    known: Mapping[str, Array]
    wanted: set[ir.Value] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.graph = self.model.graph
        self.opset = opset_of(self.model)
        self._names = Names(self.model)
        self._constants: dict[tuple[object, ...], ir.Value] = {}

    # questions about the graph

    def wants(self, node: ir.Node, index: int = 0) -> bool:
        """Whether an input of a node needs a gradient."""
        return input_at(node, index) in self.wanted

    def shape(self, value: ir.Value | None) -> tuple[int, ...]:
        """Return the sizes of a value of the original graph."""
        assert value is not None
        array = constant(value)
        return self.shapes[value.name or ""] if array is None else array.shape

    def value(self, node: ir.Node, index: int) -> Array | None:
        """Return the array of an input that does not depend on data; None where the input is left out.

        Raises:
            NoRuleError: the input depends on data.
        """
        value = input_at(node, index)
        if value is None:
            return None
        array = constant(value)
        array = self.known.get(value.name or "") if array is None else array
        if array is None:
            raise NoRuleError(f"input {index} depends on the data")
        return array

    def numbers(self, node: ir.Node, index: int, name: str = "") -> list[int] | None:
        """Return integers from an input, or from an attribute in older operators; None without both."""
        if name and name in node.attributes:
            found = attribute(node, name, [])
            return found if isinstance(found, list) else [int(found)]
        array = self.value(node, index)
        return None if array is None else [int(each) for each in array.reshape(-1)]

    # new nodes

    def op(
        self, op_type: str, *operands: Operand | None, domain: str = "", **attributes: int | float | list[int]
    ) -> ir.Value:
        """Append a node with one result and return that."""
        return self.ops(op_type, 1, *operands, domain=domain, **attributes)[0]

    def ops(
        self,
        op_type: str,
        results: int,
        *operands: Operand | None,
        domain: str = "",
        **attributes: int | float | list[int],
    ) -> list[ir.Value]:
        """Append a node with several results and return them."""
        outputs = [ir.Value(name=self._names.fresh(f"gradient_{op_type}")) for _ in range(results)]
        inputs = [
            each if each is None or isinstance(each, ir.Value) else self.constant(each) for each in operands
        ]
        name = self._names.fresh(f"gradient_{op_type}_node")
        add_node(self.graph, op_type, inputs, outputs, name=name, domain=domain, **attributes)
        return outputs

    def constant(self, array: Array | float) -> ir.Value:
        """Return a value that holds an array; equal arrays are stored once."""
        array = np.asarray(array, np.float32) if isinstance(array, int | float) else np.asarray(array)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._constants:
            self._constants[key] = add_initializer(self.graph, self._names.fresh("gradient_constant"), array)
        return self._constants[key]

    def add_input(self, wish: str, kind: ir.DataType, shape: Sequence[int]) -> ir.Value:
        """Add an input to the graph."""
        value = ir.Value(name=self._names.fresh(wish), type=ir.TensorType(kind), shape=ir.Shape(list(shape)))
        self.graph.inputs.append(value)
        return value

    # forms that many rules need

    def reshape(self, value: Operand, sizes: Sequence[int]) -> ir.Value:
        """Return a value in another shape."""
        return self.op("Reshape", value, integers(sizes))

    def sum(self, value: Operand, axes: Sequence[int], *, keep: bool = True) -> ir.Value:
        """Return sums along axes; the value itself without axes."""
        if not axes and isinstance(value, ir.Value):
            return value
        if self.opset < AXES_OPSET:
            return self.op("ReduceSum", value, axes=list(axes), keepdims=int(keep))
        return self.op("ReduceSum", value, integers(axes), keepdims=int(keep))

    def mean(self, value: Operand, axes: Sequence[int], count: int) -> ir.Value:
        """Return means along axes that together hold `count` values."""
        return self.op("Mul", self.sum(value, axes), 1.0 / count)

    def where(self, condition: Operand, value: Operand, other: Operand = 0.0) -> ir.Value:
        """Return `value` where the condition holds, else `other`."""
        return self.op("Where", condition, value, other)

    def dot(self, one: Operand, other: Operand) -> ir.Value:
        """Return the scalar product of two values of equal shape, as a scalar."""
        row, column = self.reshape(one, [1, -1]), self.reshape(other, [-1, 1])
        return self.reshape(self.op("MatMul", row, column), [])

    def transpose(self, value: Operand, order: Sequence[int]) -> ir.Value:
        """Return a value with its axes in another order."""
        if list(order) == sorted(order) and isinstance(value, ir.Value):
            return value
        return self.op("Transpose", value, perm=list(order))

    def slice(
        self, value: Operand, starts: Sequence[int], stops: Sequence[int], axes: Sequence[int]
    ) -> ir.Value:
        """Return a part of a value."""
        return self.op("Slice", value, integers(starts), integers(stops), integers(axes))

    def zeros(self, shape: Sequence[int]) -> ir.Value:
        """Return zeros."""
        return self.op("Expand", np.zeros((1,) * len(shape), np.float32), integers(shape))

    def unbroadcast(self, gradient: ir.Value, after: Sequence[int], before: Sequence[int]) -> ir.Value:
        """Sum a gradient of shape `after` over the axes that repeat an operand of shape `before`."""
        if tuple(after) == tuple(before):
            return gradient
        padded = (1,) * (len(after) - len(before)) + tuple(before)
        axes = [axis for axis, (wide, own) in enumerate(zip(after, padded, strict=True)) if wide != own]
        gradient = self.sum(gradient, axes)
        return gradient if len(after) == len(before) else self.reshape(gradient, before)

    def along(self, value: ir.Value, matrix: Array, axis: int, rank: int) -> ir.Value:
        """Return `matrix` times the value along one axis: its size becomes the number of rows."""
        matrix = np.asarray(matrix, np.float32)
        if axis == rank - 1:
            return self.op("MatMul", value, np.ascontiguousarray(matrix.T))
        if axis == rank - 2:
            return self.op("MatMul", matrix, value)
        order = [each for each in range(rank) if each != axis] + [axis]
        moved = self.op("MatMul", self.transpose(value, order), np.ascontiguousarray(matrix.T))
        return self.transpose(moved, [order.index(each) for each in range(rank)])

    def untake(self, gradient: ir.Value, indices: Array, size: int, axis: int, rank: int) -> ir.Value:
        """Return the gradient of x from that of `take(x, indices, axis)`.

        Args:
            gradient: of the taken values.
            indices: along one axis of x, each in 0..size - 1, or -1 for a value that is not from x.
            size: of x along that axis.
            axis: the axis.
            rank: number of axes of x.
        """
        held = indices[indices >= 0]
        if len(np.unique(held)) == len(held):
            back = np.full(size, len(indices), np.int64)
            back[held] = np.flatnonzero(indices >= 0)
            if len(held) < size:
                pads = [0] * rank + [int(each == axis) for each in range(rank)]
                gradient = self.op("Pad", gradient, integers(pads))
            return self.op("Gather", gradient, back, axis=axis)
        matrix = np.zeros((size, len(indices)), np.float32)
        matrix[held, np.flatnonzero(indices >= 0)] = 1
        return self.along(gradient, matrix, axis, rank)


def integers(numbers: Sequence[int]) -> Array:
    """Return numbers as an int64 array."""
    return np.array([int(each) for each in numbers], np.int64)
