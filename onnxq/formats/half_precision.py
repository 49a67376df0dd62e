"""Weights of products that stay float, stored in half precision: the runtime widens them once, when it loads the file."""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import (
    Names,
    add_initializer,
    add_node,
    constant,
    graph_of,
    input_at,
    is_float,
    nodes_of,
    tidy,
)
from onnxq.types import Array

MOST_ERROR = 1e-3
"""Largest root mean square error of the narrowed weights, by that of the weights."""


WEIGHTS: dict[str, tuple[int, ...]] = {
    "Conv": (1,), "ConvTranspose": (1,), "GRU": (1, 2), "Gemm": (1,), "LSTM": (1, 2), "MatMul": (1,), "RNN": (1, 2)
}  # fmt: skip
"""Inputs that are weights, by operator."""
ALWAYS_FLOAT = frozenset({"ConvTranspose", "GRU", "LSTM", "RNN"})
"""Those of which no integer form is planned."""


def narrow_weights(model: ir.Model, names: Collection[str]) -> None:
    """Put a Cast from float16 before the weights of the named nodes, in place, where that loses next to nothing."""
    fresh, wanted = Names(model), set(names)
    narrowed: dict[tuple[ir.Value, ir.Graph], ir.Value] = {}
    found = [
        (node, index)
        for node in nodes_of(model)
        if node.name in wanted
        for index in WEIGHTS.get(node.op_type, ())
    ]
    for node, index in found:
        value, graph = input_at(node, index), graph_of(node)
        if value is None:
            continue
        if (value, graph) not in narrowed:
            weight = constant(value) if is_float(value) else None
            if weight is None or not fits(weight):
                continue
            narrowed[value, graph] = _narrowed(model, graph, value, weight, fresh)
        node.replace_input_with(index, narrowed[value, graph])
    tidy(model)


def _narrowed(model: ir.Model, graph: ir.Graph, value: ir.Value, weight: Array, fresh: Names) -> ir.Value:
    stored = add_initializer(model.graph, fresh.fresh(f"{value.name}_half"), weight.astype(np.float16))
    widened = ir.Value(name=fresh.fresh(f"{value.name}_widened"), shape=value.shape, type=value.type)
    add_node(
        graph, "Cast", [stored], [widened], name=fresh.fresh(f"{value.name}_Cast"), to=int(ir.DataType.FLOAT)
    )
    return widened


def fits(weight: Array) -> bool:
    """Whether half precision holds a weight well."""
    if weight.size == 0 or np.abs(weight).max() > np.finfo(np.float16).max:
        return False
    error = weight.astype(np.float16).astype(np.float32) - weight
    return bool(np.square(error).sum() <= MOST_ERROR**2 * np.square(weight).sum())
