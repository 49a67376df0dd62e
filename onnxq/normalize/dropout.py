"""Dropout does nothing at inference: it becomes an Identity."""

import onnx_ir as ir


def bypass_dropout(model: ir.Model) -> bool:
    """Replace each Dropout without a used mask by an Identity, in place; return whether there was any."""
    modified = False
    for graph in model.graphs():
        for node in list(graph):
            if node.op_type != "Dropout" or node.domain or len(node.inputs) > 2:
                continue
            if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
                continue
            identity = ir.Node("", "Identity", [node.inputs[0]], name=node.name)
            identity.outputs[0].name = node.outputs[0].name
            ir.convenience.replace_nodes_and_values(
                graph, node, [node], [identity], [node.outputs[0]], [identity.outputs[0]]
            )
            modified = True
    return modified
