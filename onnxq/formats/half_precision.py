"""Half-precision storage for weights of products left in float; the runtime widens them once, on load.

Weights that are multiples of an 8-bit scale, as those of models with quantized weights, are stored as int8.
"""

from collections.abc import Collection, Sequence

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
from onnxq.techniques.arithmetic import symmetric_scale
from onnxq.types import Array, Floats, Integers

MOST_ERROR = 1e-3
"""Largest relative root mean square error of a weight in half precision."""
LEAST_SHARE = 0.01
"""Share of the model's constants that the smallest weights may have together to stay in single precision.

Narrowing them hardly saves bytes. Inputs with a large mean make the error of a first layer's few weights a
constant shift.
"""
EXACT = 1e-4
"""Distance from a multiple of the scale, in scales, up to which a weight counts as one."""


WEIGHTS: dict[str, tuple[int, ...]] = {
    "Conv": (1,), "ConvTranspose": (1,), "Gemm": (1,), "MatMul": (1,),
    "GRU": (1, 2), "LSTM": (1, 2), "RNN": (1, 2),
}  # fmt: skip
"""Indices of the inputs that are weights, by operator."""
ALWAYS_FLOAT = frozenset({"ConvTranspose", "GRU", "LSTM", "RNN"})
"""Operators that the plan always leaves in float."""


def narrow_weights(model: ir.Model, names: Collection[str]) -> bool:
    """Store the weights of the named nodes in fewer bytes, in place, where the error is small.

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
    small = _smallest(model, [value for node, index in found if (value := input_at(node, index)) is not None])
    for node, index in found:
        value, graph = input_at(node, index), graph_of(node)
        if value is None:
            continue
        if (value, graph) not in narrowed:
            weight = constant(value) if is_float(value) else None
            if weight is None:
                continue
            codes = as_int8(weight)
            if codes is not None:
                narrowed[value, graph] = _stored(model, graph, value, codes, fresh)
            elif value not in small and fits_half_precision(weight):
                narrowed[value, graph] = _narrowed(model, graph, value, weight, fresh)
            else:
                continue
        node.replace_input_with(index, narrowed[value, graph])
    return tidy(model) or bool(narrowed)


def _smallest(model: ir.Model, weights: Sequence[ir.Value]) -> set[ir.Value]:
    """Return the smallest of the weights, as many as have `LEAST_SHARE` of the model's constants together."""
    left = LEAST_SHARE * sum(map(_size, model.graph.initializers.values()))
    found = set()
    for value in sorted(dict.fromkeys(weights), key=_size):
        left -= _size(value)
        if left < 0:
            break
        found.add(value)
    return found


def _size(value: ir.Value) -> int:
    return value.const_value.size if value.const_value is not None else 0


def _narrowed(model: ir.Model, graph: ir.Graph, value: ir.Value, weight: Array, fresh: Names) -> ir.Value:
    stored = add_initializer(model.graph, fresh.fresh(f"{value.name}_half"), weight.astype(np.float16))
    widened = ir.Value(name=fresh.fresh(f"{value.name}_widened"), shape=value.shape, type=value.type)
    add_node(
        graph, "Cast", [stored], [widened], name=fresh.fresh(f"{value.name}_Cast"), to=int(ir.DataType.FLOAT)
    )
    return widened


def _stored(
    model: ir.Model, graph: ir.Graph, value: ir.Value, codes: tuple[Integers, Floats], fresh: Names
) -> ir.Value:
    integers, scales = (
        add_initializer(model.graph, fresh.fresh(f"{value.name}_{name}"), array)
        for name, array in zip(("codes", "scales"), codes, strict=True)
    )
    wide, result = (
        ir.Value(name=fresh.fresh(f"{value.name}_{name}"), shape=value.shape, type=value.type)
        for name in ("wide", "float")
    )
    cast, factor = fresh.fresh(f"{value.name}_Cast"), fresh.fresh(f"{value.name}_Mul")
    add_node(graph, "Cast", [integers], [wide], name=cast, to=int(ir.DataType.FLOAT))
    add_node(graph, "Mul", [wide, scales], [result], name=factor)
    return result


def as_int8(weight: Array) -> tuple[Integers, Floats] | None:
    """Return the codes and scales of a weight that consists of multiples of 8-bit scales, else None.

    The scales are those of the first axis, of the last, or of the whole weight, and fit its largest values.
    """
    for axis in dict.fromkeys((None, 0, weight.ndim - 1)):
        others = tuple(i for i in range(weight.ndim) if i != axis)
        scales = symmetric_scale(np.abs(weight).max(axis=others, keepdims=True, initial=0))
        codes = np.rint(weight / scales)
        if weight.size > 4 * scales.size and np.abs(weight - codes * scales).max() <= EXACT * scales.min():
            return codes.astype(np.int8), scales
    return None


def fits_half_precision(weight: Array) -> bool:
    """Whether a weight in half precision has at most MOST_ERROR."""
    if weight.size == 0 or np.abs(weight).max() > np.finfo(np.float16).max:
        return False
    error = weight.astype(np.float16).astype(np.float32) - weight
    return bool(np.square(error).sum() <= np.float32(MOST_ERROR**2) * np.square(weight).sum())
