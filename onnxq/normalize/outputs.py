"""Own values for the outputs of bodies: the runtime computes garbage where one is output twice.

The pass of onnx_ir treats the main graph, too, and renames an input of the model that is also an output.
"""

import onnx_ir as ir


def separate_outputs(model: ir.Model) -> bool:
    """Put an Identity between a body's input and its output, and before an output that repeats another.

    Returns:
        Whether there was any.
    """
    modified = False
    for graph in model.graph.subgraphs():
        seen = set[ir.Value]()
        for index, value in enumerate(graph.outputs):
            if value in seen:
                _copy(graph, index, f"{value.name}_alias_{index}")
                modified = True
            seen.add(value)
        for index, value in enumerate(graph.outputs):
            if value.is_graph_input():
                name, value.name = value.name, f"{value.name}_orig"
                _copy(graph, index, name)
                modified = True
    return modified


def _copy(graph: ir.Graph, index: int, name: str | None) -> None:
    """Let an output be a copy of its value."""
    value = graph.outputs[index]
    node = ir.node("Identity", inputs=[value])
    copy = node.outputs[0]
    copy.name, copy.type, copy.shape = name, value.type, value.shape
    graph.append(node)
    graph.outputs[index] = copy
