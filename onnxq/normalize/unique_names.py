"""A unique name for each node and each value.

Nodes are found again by name in the runtime's optimized graph, values in the plan; sibling bodies may use one
name for different things.
"""

import onnx_ir as ir


def name_nodes(model: ir.Model) -> bool:
    """Name each node without a name after its operator and result, in place; return whether there was any.

    A number would be another one at another opset, where the converter adds nodes.
    """
    unnamed = [node for graph in model.graphs() for node in graph if not node.name]
    for node in unnamed:
        node.name = _wished(node)
    return bool(unnamed)


def make_names_unique(model: ir.Model) -> bool:
    """Rename nodes and values whose name another one has, in place; return whether there was any."""
    modified = False
    seen: set[str] = set()
    for graph in model.graphs():
        for node in graph:
            name = _unique(node.name or _wished(node), seen)
            modified |= name != node.name
            node.name = name
    main = model.graph
    ends = {*main.inputs, *main.initializers.values(), *main.outputs}
    seen = {value.name or "" for value in ends}
    for graph in model.graphs():
        for value in [*graph.inputs, *(value for node in graph for value in node.outputs)]:
            if value not in ends and value.name:
                name = _unique(value.name, seen)
                modified |= name != value.name
                value.name = name
    return modified


def _wished(node: ir.Node) -> str:
    result = next((value.name for value in node.outputs if value.name), "")
    return f"{node.op_type}_{result}"


def _unique(wish: str, seen: set[str]) -> str:
    name, count = wish, 1
    while name in seen:
        count += 1
        name = f"{wish}_{count}"
    seen.add(name)
    return name
