"""Removal of Identity nodes.

The pass of onnx_ir fails where both branches of an If give the same outer value.
"""

import onnx_ir as ir


def remove_identities(model: ir.Model) -> bool:
    """Let the consumers of each Identity read its input, in place; return whether there was any.

    An Identity stays between an outer value, or another graph output, and a graph output.
    """
    modified = False
    for graph in model.graphs():
        for node in list(graph):
            if node.op_type != "Identity" or node.domain not in ("", "ai.onnx") or node.inputs[0] is None:
                continue
            before, after = node.inputs[0], node.outputs[0]
            if after.is_graph_output():
                producer = before.producer()
                if producer is None or producer.graph is not graph or before.is_graph_output():
                    continue
                before.name, after.name = after.name, None
            if before.type is None or before.shape is None:
                before.type, before.shape = before.type or after.type, before.shape or after.shape
            ir.convenience.replace_all_uses_with(after, before, replace_graph_outputs=True)
            graph.remove(node, safe=True)
            modified = True
    return modified
