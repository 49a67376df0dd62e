"""Inputs with a default, which a caller may replace: what follows from them was not calibrated.

Calibration sees the default alone. The range of a value that depends on such an input is unknown for every
other one.
"""

import onnx_ir as ir

from onnxq.graph.edit import body_owners

REPLACEABLE = (
    "depends on '{}', an input with a default that a caller may replace: take it out of the model's inputs, "
    "for example with onnxruntime.tools.remove_initializer_from_input"
)


def behind_replaceable(model: ir.Model) -> dict[ir.Node, str]:
    """Return the nodes, bodies included, that depend on such an input, with the name of one."""
    inputs = [value for value in model.graph.inputs if value.const_value is not None]
    if not inputs:
        return {}
    owners, found = body_owners(model), dict[ir.Node, str]()
    waiting = [(use.node, value.name or "") for value in inputs for use in value.uses()]
    while waiting:
        node, name = waiting.pop()
        if node in found:
            continue
        found[node] = name
        waiting += [(use.node, name) for value in node.outputs for use in value.uses()]
        bodies = [each.as_graph() for each in node.attributes.values() if each.type == ir.AttributeType.GRAPH]
        waiting += [(inner, name) for body in bodies for inner in body]
        if isinstance(node.graph, ir.Graph) and node.graph in owners:
            waiting.append((owners[node.graph], name))
    return found
