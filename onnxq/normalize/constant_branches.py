"""If whose condition is a constant: the branch that is taken moves into the graph around it."""

import onnx_ir as ir

from onnxq.graph.edit import constant


def inline_branches(model: ir.Model) -> bool:
    """Inline in place, nested ones too; returns whether there was any."""
    found = False
    again = True
    while again:
        again = any(
            _inline(node)
            for graph in list(model.graphs())
            for node in list(graph)
            if node.op_type == "If" and not node.domain
        )
        found |= again
    return found


def _inline(node: ir.Node) -> bool:
    condition = constant(node.inputs[0])
    graph = node.graph
    if condition is None or condition.size != 1 or not isinstance(graph, ir.Graph):
        return False
    branch = node.attributes["then_branch" if condition.reshape(()) else "else_branch"].as_graph()
    results = list(branch.outputs)
    inside = {value for inner in branch for value in inner.outputs}
    if not inside.issuperset(results):
        return False  # a branch that hands on a value from outside has no node to take its name
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
