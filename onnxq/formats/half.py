"""Weights of products that stay float, stored in half precision: the runtime widens them once, when it loads the file."""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from onnxq.model.edit import Names, add_initializer, add_node, constant, graph_of, is_float, nodes_of, tidy
from onnxq.schemes import Array

MOST_ERROR = 1e-3
"""Largest root mean square error of the narrowed weights, by that of the weights."""


def narrow_weights(model: ir.Model, names: Collection[str]) -> None:
    """Put a Cast from float16 before the weights of the named nodes, in place, where that loses next to nothing."""
    fresh, wanted = Names(model), set(names)
    narrowed: dict[tuple[ir.Value, ir.Graph], ir.Value] = {}
    for node in [node for node in nodes_of(model) if node.name in wanted and node.op_type in ("Conv", "Gemm", "MatMul")]:
        value = node.inputs[1] if len(node.inputs) > 1 else None
        if value is not None and (value, graph_of(node)) in narrowed:
            node.replace_input_with(1, narrowed[value, graph_of(node)])
            continue
        weight = constant(value) if is_float(value) else None
        if value is None or weight is None or not fits(weight):
            continue
        stored = add_initializer(model.graph, fresh.fresh(f"{value.name}_half"), weight.astype(np.float16))
        widened = ir.Value(name=fresh.fresh(f"{value.name}_widened"), shape=value.shape, type=value.type)
        add_node(graph_of(node), "Cast", [stored], [widened], name=fresh.fresh(f"{value.name}_Cast"), to=int(ir.DataType.FLOAT))
        node.replace_input_with(1, widened)
        narrowed[value, graph_of(node)] = widened
    tidy(model)


def fits(weight: Array) -> bool:
    """Whether half precision holds a weight well."""
    if weight.size == 0 or np.abs(weight).max() > np.finfo(np.float16).max:
        return False
    error = weight.astype(np.float16).astype(np.float32) - weight
    return bool(np.square(error).sum() <= MOST_ERROR**2 * np.square(weight).sum())
