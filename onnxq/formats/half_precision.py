"""Half-precision storage for weights of products left in float; the runtime widens them once, on load."""

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
"""Largest relative root mean square error of a weight in half precision."""


WEIGHTS: dict[str, tuple[int, ...]] = {
    "Conv": (1,), "ConvTranspose": (1,), "Gemm": (1,), "MatMul": (1,),
    "GRU": (1, 2), "LSTM": (1, 2), "RNN": (1, 2),
}  # fmt: skip
"""Indices of the inputs that are weights, by operator."""
ALWAYS_FLOAT = frozenset({"ConvTranspose", "GRU", "LSTM", "RNN"})
"""Operators that the plan always leaves in float."""


def narrow_weights(model: ir.Model, names: Collection[str]) -> bool:
    """Store the weights of the named nodes as float16 with a Cast, in place, where the error is small.

    Returns:
        Whether any weight was narrowed.
    """
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
            if weight is None or not fits_half_precision(weight):
                continue
            narrowed[value, graph] = _narrowed(model, graph, value, weight, fresh)
        node.replace_input_with(index, narrowed[value, graph])
    return tidy(model) or bool(narrowed)


def _narrowed(model: ir.Model, graph: ir.Graph, value: ir.Value, weight: Array, fresh: Names) -> ir.Value:
    stored = add_initializer(model.graph, fresh.fresh(f"{value.name}_half"), weight.astype(np.float16))
    widened = ir.Value(name=fresh.fresh(f"{value.name}_widened"), shape=value.shape, type=value.type)
    add_node(
        graph, "Cast", [stored], [widened], name=fresh.fresh(f"{value.name}_Cast"), to=int(ir.DataType.FLOAT)
    )
    return widened


def fits_half_precision(weight: Array) -> bool:
    """Whether a weight in half precision has at most MOST_ERROR."""
    if weight.size == 0 or np.abs(weight).max() > np.finfo(np.float16).max:
        return False
    error = weight.astype(np.float16).astype(np.float32) - weight
    return bool(np.square(error).sum() <= np.float32(MOST_ERROR**2) * np.square(weight).sum())
