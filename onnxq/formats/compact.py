"""Fewer bytes for the same model: small networks have more names, shapes and zeros than weights."""

from collections.abc import Collection

import onnx_ir as ir

from onnxq.graph.edit import constant, nodes_of

ZERO_TYPES = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32})
"""Types of zero points."""


def stated_types(model: ir.Model) -> frozenset[str]:
    """Return the names of the inner values whose types a model file states, before shape inference."""
    values = (value for node in nodes_of(model) for value in node.outputs)
    return frozenset(value.name for value in values if value.name and value.type is not None)


def compact(model: ir.Model, stated: Collection[str]) -> bool:
    """Share equal arrays of zeros, and leave out types of values that the original does not state, in place.

    The runtime infers these types again. Names stay, for those who look at the file.

    Returns:
        Whether anything changed.
    """
    return share_zeros(model) + forget_types(model, stated) > 0


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


def forget_types(model: ir.Model, stated: Collection[str]) -> int:
    """Remove type and shape of constants, and of results not in `stated`; return their number.

    A constant's tensor has both.
    """
    results = [value for node in nodes_of(model) for value in node.outputs if value.name not in stated]
    constants = [value for graph in model.graphs() for value in graph.initializers.values()]
    added = [
        value for value in results + constants if not value.is_graph_output() and not value.is_graph_input()
    ]
    for value in added:
        value.type = value.shape = None
    return len(added)
