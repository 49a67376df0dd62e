"""Fusion of Gelu behind a DequantizeLinear into one operator.

The runtime fuses a Gelu of single operators itself, but not behind a DequantizeLinear: it duplicates that for
each of the two consumers. Five passes over the tensor instead of one, and a sixth to read the integers twice,
would remain.
"""

import onnx_ir as ir

from onnxq.graph.edit import MICROSOFT, Names, add_node, graph_of, nodes_of, take_output, tidy
from onnxq.graph.fusions import find_gelu


def fuse_gelu(model: ir.Model) -> bool:
    """Fuse all Gelus behind a DequantizeLinear, in place; return whether there was any."""
    found = [
        gelu
        for node in nodes_of(model)
        if node.op_type == "Erf" and (gelu := find_gelu(node)) is not None and _reads_integers(gelu[0])
    ]
    if not found:
        return False
    names = Names(model)
    for x, last in found:
        output = ir.Value()
        add_node(
            graph_of(last), "Gelu", [x], [output], name=names.fresh(f"{last.name}_Gelu"), domain=MICROSOFT
        )
        take_output(output, last.outputs[0])
    model.graph.opset_imports.setdefault(MICROSOFT, 1)
    tidy(model)
    return True


def _reads_integers(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"
