"""LSTMs with int8 weights: the runtime quantizes their inputs step by step (com.microsoft DynamicQuantizeLSTM)."""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxq.arithmetic import symmetric_scale
from onnxq.model.edit import Names, add_initializer, constant, graph_of, input_at, is_float, nodes_of, sizes
from onnxq.schemes import Array, Floats, Integers

MICROSOFT = "com.microsoft"
ZERO = 128
"""Zero point: CPUs without VNNI multiply unsigned weights exactly, signed ones with saturation."""
WORTH = 1 << 15
"""Weights from which on the int8 kernel is faster: 64 hidden units that take 64 (measured under AVX2; at 256 it takes 0.4 of the time)."""
OPTIONAL = 8
"""Inputs that both operators share: X, W, R, B, sequence_lens, initial_h, initial_c, P."""


def is_dynamic_lstm(node: ir.Node) -> bool:
    """Whether a node is an LSTM whose weights can be stored as int8."""
    if node.op_type != "LSTM" or node.domain not in ("", "ai.onnx") or not is_float(node.outputs[0]):
        return False
    layout = node.attributes.get("layout")
    weights = [constant(value) for value in node.inputs[1:3]]
    return all(w is not None and w.dtype == np.float32 for w in weights) and (layout is None or layout.as_int() == 0)


def dynamic_lstms(model: ir.Model, least: int = 0) -> list[str]:
    """Names of the LSTMs that could have int8 weights, and have at least so many."""
    found = [node for node in nodes_of(model) if is_dynamic_lstm(node)]
    return [node.name or "" for node in found if sum(math.prod(sizes(value) or ()) for value in node.inputs[1:3]) >= least]


def quantize_lstms(model: ir.Model, chosen: Sequence[str]) -> None:
    """Give the named LSTMs int8 weights, in place."""
    names = Names(model)
    for node in [node for node in nodes_of(model) if node.name in chosen]:
        _replace(model, node, names)
        model.graph.opset_imports[MICROSOFT] = 1
    passes.RemoveUnusedNodesPass()(model)
    model.graph.sort()


def _replace(model: ir.Model, node: ir.Node, names: Names) -> None:
    inputs: list[ir.Value | None] = [input_at(node, index) for index in range(OPTIONAL)]
    scales: list[ir.Value | None] = []
    for index in (1, 2):
        value = inputs[index]
        weight = constant(value)
        assert weight is not None
        assert value is not None
        stored, scale = quantized_weight(weight)
        base = value.name
        inputs[index] = add_initializer(model.graph, names.fresh(f"{base}_quantized"), stored)
        scales.append(add_initializer(model.graph, names.fresh(f"{base}_scale"), scale))
        scales.append(add_initializer(model.graph, names.fresh(f"{base}_zero_point"), np.full(scale.shape, ZERO, np.uint8)))
    kept = [value for value in node.attributes.values() if value.name != "layout"]
    new = ir.Node(MICROSOFT, "DynamicQuantizeLSTM", [*inputs, *scales], kept, num_outputs=len(node.outputs), name=node.name)
    for old, fresh in zip(node.outputs, new.outputs, strict=True):
        fresh.shape, fresh.type = old.shape, old.type
    outputs = [output.name for output in node.outputs]
    ir.convenience.replace_nodes_and_values(graph_of(node), node, [node], [new], node.outputs, new.outputs)
    for name, fresh in zip(outputs, new.outputs, strict=True):
        fresh.name = name


def quantized_weight(weight: Array) -> tuple[Integers, Floats]:
    """W or R [directions, 4 hidden, K] as the operator takes it: uint8 [directions, K, 4 hidden], scales [directions, 4 hidden]."""
    scale = symmetric_scale(np.abs(weight).max(axis=2))
    stored = (np.clip(np.rint(weight / scale[:, :, None]), -127, 127) + ZERO).astype(np.uint8)
    return np.ascontiguousarray(stored.transpose(0, 2, 1)), scale
