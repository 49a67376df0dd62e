"""Removal of loop-invariant states: the body of a Loop or Scan reads their initial values instead.

Exporters pass the weights of a recurrent cell as such states, where they look like activations.
"""

import onnx_ir as ir

from onnxq.graph.edit import attribute

OLDEST = 9
"""First opset whose Scan has no sequence lengths before its states."""


def read_invariants(model: ir.Model) -> bool:
    """Remove such states, outermost loops first; return whether there was any."""
    if model.graph.opset_imports.get("", 1) < OLDEST:
        return False
    loops = [
        node
        for graph in model.graphs()
        for node in list(graph)
        if node.op_type in ("Loop", "Scan") and not node.domain
    ]
    return sum(_remove_states(loop) for loop in loops) > 0


def _remove_states(loop: ir.Node) -> bool:
    body = loop.attributes["body"].as_graph()
    # a Loop has its count and condition before its states
    head, tail = (2, 1) if loop.op_type == "Loop" else (0, 0)
    count = len(loop.inputs) - head
    if loop.op_type == "Scan":
        count -= int(attribute(loop, "num_scan_inputs", 0))  # type: ignore[arg-type]
    same = [
        k
        for k in range(count)
        if _is_invariant(body, head + k, tail + k) and _is_removable(loop, head + k, k)
    ]
    if not same:
        return False
    for k in reversed(same):
        start = loop.inputs[head + k]
        assert start is not None
        body.outputs.pop(tail + k)
        ir.convenience.replace_all_uses_with(body.inputs.pop(head + k), start)
        ir.convenience.replace_all_uses_with(loop.outputs[k], start)
    _drop_states(loop, {head + k for k in same}, set(same))
    return True


def _is_invariant(body: ir.Graph, taken: int, given: int) -> bool:
    """Whether an output of the body, and no other, is the given input unchanged."""
    origins = [_origin(value) for value in body.outputs]
    return origins[given] is body.inputs[taken] and origins.count(body.inputs[taken]) == 1


def _origin(value: ir.Value) -> ir.Value | None:
    producer = value.producer()
    return (
        producer.inputs[0]
        if producer is not None and producer.op_type == "Identity" and not producer.domain
        else value
    )


def _is_removable(loop: ir.Node, start: int, output: int) -> bool:
    """Whether all consumers may read the state's initial value; a graph output needs a producing node."""
    return loop.inputs[start] is not None and not loop.outputs[output].is_graph_output()


def _drop_states(loop: ir.Node, inputs: set[int], outputs: set[int]) -> None:
    graph = loop.graph
    assert graph is not None
    kept = [value for k, value in enumerate(loop.outputs) if k not in outputs]
    attributes = list(loop.attributes.values())
    loop.attributes.clear()  # a body belongs to one node
    values = [value for k, value in enumerate(loop.inputs) if k not in inputs]
    shorter = ir.Node(
        loop.domain,
        loop.op_type,
        values,
        attributes,
        num_outputs=len(kept),
        name=loop.name,
        version=loop.version,
    )
    for old, new in zip(kept, shorter.outputs, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
    ir.convenience.replace_nodes_and_values(graph, loop, [loop], [shorter], kept, list(shorter.outputs))
