"""Gelu as one operator of the runtime where it reads what was quantized.

The runtime fuses a Gelu that is written out by itself, but not behind a DequantizeLinear, which it doubles for each of the two
nodes that take its value: five passes over a tensor instead of one, and a sixth to read the integers twice.
"""

import onnx_ir as ir

from onnxq.graph.edit import MICROSOFT, Names, add_node, graph_of, nodes_of, take_output, tidy
from onnxq.graph.fusions import find_gelu


def fuse_gelu(model: ir.Model) -> int:
    """Fuse all Gelus behind a DequantizeLinear, in place; returns how many."""
    found = [
        gelu
        for node in nodes_of(model)
        if node.op_type == "Erf" and (gelu := find_gelu(node)) is not None and _reads_integers(gelu[0])
    ]
    if not found:
        return 0
    names = Names(model)
    for x, last in found:
        output = ir.Value()
        add_node(
            graph_of(last), "Gelu", [x], [output], name=names.fresh(f"{last.name}_Gelu"), domain=MICROSOFT
        )
        take_output(output, last.outputs[0])
    model.graph.opset_imports.setdefault(MICROSOFT, 1)
    tidy(model)
    return len(found)


def _reads_integers(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"
