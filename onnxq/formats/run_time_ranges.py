"""Dynamic quantization of products: their activations get a range in every run (MatMulIntegerToFloat).

The runtime's kernel also adds the bias. Among float operators, this is as fast as a calibrated range, and no
single range has to fit all samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import (
    MICROSOFT,
    Names,
    add_initializer,
    add_node,
    constant,
    graph_of,
    input_at,
    nodes_of,
    take_output,
    tidy,
)
from onnxq.plan.plan import Plan
from onnxq.plan.products import channel_axis, following_bias
from onnxq.quantization.weights import QuantizedWeight
from onnxq.techniques.saturation import kernel_order
from onnxq.types import Array, Floats, Integers


@dataclass(frozen=True)
class Product:
    """Weight and bias of a product.

    stored  int8 `[K, channels]`
    scales  `[channels]`
    bias    `[channels]`, or a value of the graph
    origin  the float weight and the axis of its channels: products with the same origin share the integers
    """

    stored: Integers
    scales: Floats
    bias: ir.Value | Array | None
    origin: tuple[ir.Value | None, int]


class RunTimeWriter:
    """Writer that replaces products in a model, in place.

    A shared activation is quantized once, a shared weight is stored once.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model, self.names = model, Names(model)
        model.graph.opset_imports.setdefault(MICROSOFT, 1)
        self._quantized: dict[tuple[ir.Value, ir.Graph], list[ir.Value]] = {}
        self._weights: dict[tuple[ir.Value | None, int], list[ir.Value]] = {}

    def replace(
        self,
        node: ir.Node,
        activation: ir.Value | None,
        product: Product,
        follower: tuple[ir.Node, int] | None,
    ) -> None:
        """Replace a product, and the Add of a constant behind it if any, by one kernel.

        Args:
            node: MatMul or Gemm.
            activation: the float operand.
            product: weight and bias.
            follower: the Add, and the index of its bias operand.
        """
        graph, base = graph_of(node), node.name or "product"
        integers, scale, zero = self._integers(activation, graph)
        codes, factor, middle = self._weight(base, product)
        last = node if follower is None else follower[0]
        bias = (
            product.bias
            if product.bias is None or isinstance(product.bias, ir.Value)
            else self._constant(f"{base}_bias", product.bias)
        )
        inputs = [integers, codes, scale, factor, zero, middle, bias]
        output = ir.Value(name=self.names.fresh(f"{base}_result"))
        add_node(
            graph,
            "MatMulIntegerToFloat",
            inputs if bias is not None else inputs[:-1],
            [output],
            name=base,
            domain=MICROSOFT,
        )
        take_output(output, last.outputs[0])
        for gone in dict.fromkeys((last, node)):
            graph.remove(gone, safe=True)

    def _integers(self, value: ir.Value | None, graph: ir.Graph) -> list[ir.Value]:
        """Quantize an activation at run time, once per graph; return integers, scale and zero point."""
        assert value is not None
        if (value, graph) not in self._quantized:
            parts = [
                ir.Value(name=self.names.fresh(f"{value.name}_{part}"))
                for part in ("quantized", "scale", "zero_point")
            ]
            add_node(
                graph,
                "DynamicQuantizeLinear",
                [value],
                parts,
                name=self.names.fresh(f"{value.name}_DynamicQuantizeLinear"),
            )
            self._quantized[value, graph] = parts
        return self._quantized[value, graph]

    def _weight(self, base: str, product: Product) -> list[ir.Value]:
        """Store a weight once; return its integers, scales and zero points."""
        if product.origin not in self._weights:
            scales = (
                product.scales if len(set(product.scales.tolist())) > 1 else product.scales[:1].reshape(())
            )
            constants = {
                "quantized": product.stored,
                "scale": scales,
                "zero_point": np.zeros(scales.shape, np.int8),
            }
            self._weights[product.origin] = [
                self._constant(f"{base}_weight_{part}", array) for part, array in constants.items()
            ]
        return self._weights[product.origin]

    def _constant(self, name: str, array: Array) -> ir.Value:
        return add_initializer(self.model.graph, self.names.fresh(name), np.ascontiguousarray(array))


def bias_with_shift(given: ir.Value | None, weight: QuantizedWeight) -> ir.Value | Array | None:
    """Return the bias `[channels]` plus the correction of the output's shift by rounding."""
    known = constant(given)
    if (given is None and weight.shift is None) or (given is not None and known is None):
        return given
    total = np.zeros(len(weight.scales))
    for part in (known, weight.shift):
        total += 0 if part is None else part.reshape(-1)
    return total.astype(np.float32)


def with_clamps(plan: Plan, chosen: Sequence[str]) -> Plan:
    """Return the plan with explicit clamps before chosen products; a run-time range cannot replace them."""
    taken = {value.name for name in chosen for value in plan.nodes[name].node.inputs[:1] if value is not None}
    tensors = {
        name: replace(tensor, bounds=None) if name in taken else tensor
        for name, tensor in plan.tensors.items()
    }
    return replace(plan, tensors=tensors)


def quantize_at_run_time(model: ir.Model, plan: Plan, chosen: Sequence[str]) -> bool:
    """Give chosen products run-time ranges, in a QDQ file written `with_clamps`; return whether any."""
    nodes = {node.name: node for node in nodes_of(model)}
    writer = RunTimeWriter(model)
    for name in chosen:
        planned = replace(plan.nodes[name], node=nodes[name])
        node = planned.node
        dequantizer, weight = (_producer(node.inputs[index]) for index in (0, 1))
        quantizer = _producer(dequantizer.inputs[0])
        stored, scales = constant(weight.inputs[0]), constant(weight.inputs[1])
        assert stored is not None
        assert scales is not None
        axis = channel_axis(planned)
        rows = kernel_order(stored, axis)
        follower = following_bias(planned)
        array = constant(input_at(node, 2) if follower is None else follower[0].inputs[follower[1]])
        product = Product(
            rows.T,
            np.broadcast_to(scales, len(rows)),
            None if array is None else array.reshape(-1).astype(np.float32),
            (weight.inputs[0], axis),
        )
        writer.replace(node, quantizer.inputs[0], product, follower)
    return tidy(model) or bool(chosen)


def _producer(value: ir.Value | None) -> ir.Node:
    node = value.producer() if value is not None else None
    assert node is not None
    return node
