"""Fewer bytes for the same model: small networks have more names, shapes and zeros than weights."""

import onnx_ir as ir

from onnxq.graph.edit import constant, nodes_of

ZERO_TYPES = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32})
"""Types of zero points."""


def compact(model: ir.Model, original: ir.Model) -> bool:
    """Share equal arrays of zeros, and leave out types of values that the original lacks, in place.

    The runtime infers these types again. Names stay, for those who look at the file.

    Returns:
        Whether anything changed.
    """
    return share_zeros(model) + forget_types(model, original) > 0


def share_zeros(model: ir.Model) -> int:
    """Replace integer constants of zeros by the first of their type and shape; return their number."""
    first: dict[tuple[ir.DataType, tuple[int, ...]], ir.Value] = {}
    shared = 0
    for name, value in list(model.graph.initializers.items()):
        if value.dtype not in ZERO_TYPES or value.is_graph_output() or value.is_graph_input():
            continue
        array = constant(value)
        if array is None or array.any():
            continue
        same = first.setdefault((value.dtype, array.shape), value)
        if same is not value:
            ir.convenience.replace_all_uses_with(value, same)
            del model.graph.initializers[name]
            shared += 1
    return shared


def forget_types(model: ir.Model, original: ir.Model) -> int:
    """Remove type and shape of constants, and of results that the original lacks; return their number.

    A constant's tensor has both.
    """
    known = {value.name for node in nodes_of(original) for value in node.outputs}
    results = [value for node in nodes_of(model) for value in node.outputs if value.name not in known]
    constants = [value for graph in model.graphs() for value in graph.initializers.values()]
    added = [
        value for value in results + constants if not value.is_graph_output() and not value.is_graph_input()
    ]
    for value in added:
        value.type = value.shape = None
    return len(added)
