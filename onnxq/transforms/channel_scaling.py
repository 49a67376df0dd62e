"""Divide an activation's channels before its layers, and multiply the layers' weights by the same factors."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import Names, add_initializer, add_node, attribute, constant
from onnxq.types import Floats


def divide_channels(
    model: ir.Model, tensor: str, nodes: Sequence[str], scales: Floats, *, fold: bool = False
) -> str:
    """Rewrite a model in place; return the name of the divided activation.

    Args:
        model: normalized model.
        tensor: the activation; its last axis has the channels.
        nodes: MatMul and Gemm nodes with the activation as first operand; other consumers keep the original.
        scales: divisors, [channels].
        fold: divide the constant of a Mul in front of these nodes, such as a normalization's, if only they
            use its result, instead of adding a Mul.
    """
    graph, names = model.graph, Names(model)
    consumers = [node for node in graph if node.name in set(nodes)]
    value = consumers[0].inputs[0]
    assert value is not None
    # a Mul by the inverse scales
    existing = _factor_before(value, consumers) if fold else None
    source, divisor = existing or (value, np.ones(1, np.float32))
    factor = add_initializer(graph, names.fresh(f"{tensor}_smoothing"), (divisor / scales).astype(np.float32))
    divided = ir.Value(name=names.fresh(f"{tensor}_smoothed"), shape=value.shape, type=value.type)
    add_node(graph, "Mul", [source, factor], [divided], name=names.fresh(f"{tensor}_Smoothing"))
    # the weights
    for node in consumers:
        original = node.inputs[1]
        weight = constant(original)
        assert weight is not None
        assert original is not None
        along_rows = node.op_type == "Gemm" and bool(attribute(node, "transB", 0))
        scaled = (weight * (scales if along_rows else scales[:, None])).astype(np.float32)
        node.replace_input_with(0, divided)
        node.replace_input_with(1, add_initializer(graph, names.fresh(f"{original.name}_smoothed"), scaled))
    graph.sort()
    return divided.name or ""


def _factor_before(value: ir.Value, consumers: Sequence[ir.Node]) -> tuple[ir.Value, Floats] | None:
    """Return the operand and the constant [channels] of a Mul whose result only these consumers use."""
    node = value.producer()
    if (
        node is None
        or node.op_type != "Mul"
        or value.is_graph_output()
        or {use.node for use in value.uses()} - set(consumers)
    ):
        return None
    for index in (0, 1):
        other, array = node.inputs[1 - index], constant(node.inputs[index])
        if array is not None and other is not None and array.ndim == 1:
            return other, array
    return None
