"""Models of a few operators to time, in float or with Q/DQ around each operator."""

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import Names, add_initializer, add_node
from onnxq.types import Array, Feeds

SAME_PARAMETERS = frozenset({"MaxPool", "Resize"})
"""Operators that become integer kernels only if input and output have the same scale."""
MICROSOFT = "com.microsoft"


class SmallModel:
    """A model of one input, built operator by operator.

    An operator gets values of this model, arrays, and None for inputs that it does not have. Arrays of two
    dimensions and more are weights; in the integer form they are stored as int8.
    """

    def __init__(self, shape: tuple[int, ...], *, integer: bool = False, dtype: str = "FLOAT") -> None:
        self.integer = integer
        self.input = _value("x", ir.DataType[dtype], shape)
        graph = ir.Graph([self.input], [], nodes=[], opset_imports={"": 18, MICROSOFT: 1}, name="kernels")
        self.model = ir.Model(graph, ir_version=8)
        self.names = Names(self.model)
        self.random = np.random.default_rng(0)
        self.zero = self._constant(np.array(128, np.uint8)) if integer else None
        self.scales = 0
        self.start = self._around(self.input, self._new_scale()) if integer else self.input

    def op(
        self, op_type: str, *operands: ir.Value | Array | None, **attributes: int | float | str | list[int]
    ) -> ir.Value:
        """Append an operator and return its value."""
        inputs = [self._operand(op_type, each) for each in operands]
        output = self._node(op_type, inputs, "", **attributes)
        if not self.integer:
            return output
        return self._around(output, _scale_of(inputs[0]) if op_type in SAME_PARAMETERS else self._new_scale())

    def plain(
        self,
        op_type: str,
        *operands: ir.Value | Array,
        domain: str = "",
        **attributes: int | float | str | list[int],
    ) -> ir.Value:
        """Append an operator as it is, without Q/DQ, and return its value."""
        inputs: list[ir.Value | None] = [
            each if isinstance(each, ir.Value) else self._constant(each) for each in operands
        ]
        return self._node(op_type, inputs, domain, **attributes)

    def finished(self, output: ir.Value, dtype: str = "FLOAT") -> ir.Model:
        """Return the model with this output."""
        output.type = ir.TensorType(ir.DataType[dtype])
        self.model.graph.outputs.append(output)
        return self.model

    def _operand(self, op_type: str, operand: ir.Value | Array | None) -> ir.Value | None:
        if operand is None or isinstance(operand, ir.Value):
            return operand
        if not self.integer or operand.ndim < 2:
            return self._constant(operand)
        axis = 1 if op_type == "MatMul" else 0
        channels = operand.shape[axis]
        stored = self.random.integers(-60, 60, operand.shape, np.int8)
        inputs = [stored, np.full(channels, 0.01, np.float32), np.zeros(channels, np.int8)]
        return self._node("DequantizeLinear", [self._constant(each) for each in inputs], axis=axis)

    def _new_scale(self) -> ir.Value:
        """Add a scale unlike the others: kernels only copy values between equal ones."""
        self.scales += 1
        return self._constant(np.array(0.02 + 0.001 * (self.scales % 16), np.float32))

    def _around(self, value: ir.Value, scale: ir.Value | None) -> ir.Value:
        quantized = self._node("QuantizeLinear", [value, scale, self.zero])
        return self._node("DequantizeLinear", [quantized, scale, self.zero])

    def _constant(self, array: Array) -> ir.Value:
        return add_initializer(self.model.graph, self.names.fresh("constant"), array)

    def _node(
        self,
        op_type: str,
        inputs: list[ir.Value | None],
        domain: str = "",
        **attributes: int | float | str | list[int],
    ) -> ir.Value:
        name = self.names.fresh(op_type)
        output = ir.Value(name=f"{name}_out")
        add_node(self.model.graph, op_type, inputs, [output], name=name, domain=domain, **attributes)
        return output


def _scale_of(value: ir.Value | None) -> ir.Value | None:
    """Return the scale of a dequantized value."""
    dequantizer = value.producer() if value is not None else None
    assert dequantizer is not None and dequantizer.op_type == "DequantizeLinear"
    return dequantizer.inputs[1]


def weight_of(shape: tuple[int, ...]) -> Array:
    """Return a float weight of this shape; random, and always the same."""
    return np.asarray(np.random.default_rng(1).normal(0, 0.1, shape), np.float32)


def random_feeds(model: ir.Model) -> Feeds:
    """Return random inputs, always the same: normal floats, or any bytes."""
    random, feeds = np.random.default_rng(2), {}
    for value in model.graph.inputs:
        assert value.shape is not None
        shape = [int(size) for size in value.shape.numpy()]
        is_float = value.dtype == ir.DataType.FLOAT
        values = random.normal(size=shape) if is_float else random.integers(0, 256, shape)
        feeds[value.name or ""] = np.asarray(values, np.float32 if is_float else np.uint8)
    return feeds


def _value(name: str, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
