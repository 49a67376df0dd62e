"""Inlining of If nodes with a constant condition."""

import onnx_ir as ir

from onnxq.graph.edit import constant


def inline_branches(model: ir.Model) -> bool:
    """Inline the branch taken by each such If, nested ones too, in place; return whether there was any."""
    modified = False
    again = True
    while again:
        again = any(
            _inline(node)
            for graph in list(model.graphs())
            for node in list(graph)
            if node.op_type == "If" and not node.domain
        )
        modified |= again
    return modified


def _inline(node: ir.Node) -> bool:
    condition = constant(node.inputs[0])
    graph = node.graph
    if condition is None or condition.size != 1 or not isinstance(graph, ir.Graph):
        return False
    branch = node.attributes["then_branch" if condition.reshape(()) else "else_branch"].as_graph()
    results = list(branch.outputs)
    inside = {value for inner in branch for value in inner.outputs}
    if not inside.issuperset(results):
        return False  # an outer value as the branch's output has no node that could take its name
    moved = list(branch)
    branch.outputs.clear()
    branch.remove(moved)
    graph.insert_before(node, moved)
    names = [value.name for value in node.outputs]
    for old, new in zip(node.outputs, results, strict=True):
        new.shape, new.type = old.shape or new.shape, old.type or new.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    for name, old, new in zip(names, node.outputs, results, strict=True):
        old.name = None
        new.name = name
    return True
