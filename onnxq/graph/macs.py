"""Multiply-accumulate operations (MACs) of matrix products and convolutions."""

import math

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import attribute, nodes_of, sizes
from onnxq.graph.shapes import infer_shapes
from onnxq.types import Feeds

ShapeByName = dict[str, list[int]]
RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
WITH_MACS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}) | RECURRENT


def concrete_shapes(model: ir.Model, feeds: Feeds | None) -> ShapeByName:
    """Infer the static shapes of values for inputs of these shapes, as far as possible.

    Without feeds, unknown sizes of the inputs count as 1.
    """
    copy = model.clone()
    for value in copy.graph.inputs:
        if feeds is not None and value.name in feeds:
            value.shape = ir.Shape(np.shape(feeds[value.name]))
        elif value.shape is not None:
            value.shape = ir.Shape([size if isinstance(size, int) else 1 for size in value.shape])
    for node in nodes_of(copy):
        for value in node.outputs:
            value.shape = None
    infer_shapes(copy)
    values = [
        *copy.graph.inputs,
        *copy.graph.initializers.values(),
        *(v for n in nodes_of(copy) for v in n.outputs),
    ]
    found = {value.name or "": sizes(value) for value in values}
    return {name: shape for name, shape in found.items() if shape is not None}


def node_macs(node: ir.Node, shapes: ShapeByName) -> int:
    """Return the MACs of a node; 0 if it has none or its shapes are unknown."""
    if node.op_type not in WITH_MACS or node.domain not in ("", "ai.onnx"):
        return 0
    names = [value.name or "" if value is not None else "" for value in node.inputs]
    first, second = shapes.get(names[0]), shapes.get(names[1])
    output = shapes.get(node.outputs[0].name or "")
    if node.op_type in RECURRENT:
        # x [steps, batch, input], W [directions, gates hidden, input], R [directions, gates hidden, hidden]
        third = shapes.get(names[2]) if len(names) > 2 else None
        return (
            first[0] * first[1] * (math.prod(second) + math.prod(third))
            if first and second and third and len(first) > 1
            else 0
        )
    if node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:]) if first and second else 0
    if node.op_type == "Conv":
        return math.prod(output) * math.prod(second[1:]) if output and second else 0
    if node.op_type == "Gemm":
        if not output or not second:
            return 0
        return math.prod(output) * (second[1] if attribute(node, "transB", 0) else second[0])
    return math.prod(output) * first[-1] if output is not None and first else 0
