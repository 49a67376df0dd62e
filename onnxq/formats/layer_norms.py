"""Sums in front of layer normalizations, in a form that the runtime does not fuse with them.

The runtime (1.32) makes one SkipLayerNormalization of Add and LayerNormalization. Its kernel takes 4 ns for
each element, the two kernels together 0.5. The operator Sum computes the same as Add and is not fused.
"""

import onnx_ir as ir

from onnxq.graph.edit import Names, add_node, graph_of, is_constant, is_float, nodes_of, take_output, tidy


def keep_sums_apart(model: ir.Model) -> bool:
    """Write Sum for each Add of two values that only a layer normalization reads, in place."""
    names, modified = Names(model), False
    for node in list(nodes_of(model)):
        if node.op_type != "Add" or node.domain not in ("", "ai.onnx") or not is_float(node.outputs[0]):
            continue
        if any(map(is_constant, node.inputs)) or not _is_normalized(node.outputs[0]):
            continue
        output = ir.Value()
        add_node(graph_of(node), "Sum", list(node.inputs), [output], name=names.fresh(f"{node.name}_Sum"))
        take_output(output, node.outputs[0])
        modified = True
    return modified and (tidy(model) or True)


def _is_normalized(value: ir.Value) -> bool:
    """Whether a layer normalization alone reads a value, as one operator or written out."""
    readers = {use.node for use in value.uses()}
    if value.is_graph_output():
        return False
    if len(readers) == 1:
        (reader,) = readers
        return reader.op_type == "LayerNormalization" and reader.inputs[0] is value
    kinds = {reader.op_type: reader for reader in readers}
    if len(readers) != 2 or set(kinds) != {"ReduceMean", "Sub"}:
        return False
    return list(kinds["Sub"].inputs) == [value, kinds["ReduceMean"].outputs[0]]
