"""Embedding tables as int8 with a scale per row, in standard operators.

Gather(table, i)  =  Cast(Gather(integers, i)) * Gather(scales, i)
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import (
    Names,
    add_initializer,
    add_node,
    attribute,
    constant,
    graph_of,
    is_constant,
    is_float,
    masks,
    nodes_of,
    sizes,
    take_output,
    tidy,
)
from onnxq.graph.files import weight_bytes
from onnxq.techniques.arithmetic import symmetric_scale
from onnxq.types import INT8, Floats, Integers

KnownTables = dict[str, tuple[Integers, Floats]]

LEAST_ELEMENTS = 1 << 14
"""Elements below which a table stays in float."""
LEAST_SHARE = 0.05
"""Share of the model's weights below which a table stays in float: the look-up takes three more nodes."""


def looked_up(model: ir.Model) -> Iterator[ir.Node]:
    """Yield the look-ups of whole rows in large constant tables."""
    least = max(LEAST_ELEMENTS, LEAST_SHARE * weight_bytes(model) / np.dtype(np.float32).itemsize)
    for node in nodes_of(model):
        if node.op_type != "Gather" or node.domain not in ("", "ai.onnx") or attribute(node, "axis", 0) != 0:
            continue
        table = node.inputs[0]
        shape = sizes(table)
        if (
            shape is not None
            and len(shape) == 2
            and np.prod(shape) >= least
            and is_constant(table)
            and is_float(table)
        ):
            yield node


def quantize_tables(model: ir.Model, known: KnownTables | None = None) -> bool:
    """Store the tables that only look-ups read as int8, in place; return whether there was any.

    Args:
        model: the model to rewrite.
        known: a cache of quantized tables for several files of one model; new tables are added.
    """
    names = Names(model)
    stored: dict[str, tuple[ir.Value, ir.Value]] = {}
    modified = False
    for node in list(looked_up(model)):
        table = node.inputs[0]
        assert table is not None
        if any(use.node.op_type != "Gather" for use in table.uses()):
            continue
        key = table.name or ""
        if key not in stored and key not in (known or {}) and not is_storable(constant(table)):
            continue
        if key not in stored:
            integers, scales = (known or {}).get(key) or int8_rows(constant(table))
            if known is not None:
                known[key] = integers, scales
            stored[key] = (
                add_initializer(model.graph, names.fresh(f"{key}_quantized"), integers),
                add_initializer(model.graph, names.fresh(f"{key}_scale"), scales[:, None]),
            )
        _replace(node, *stored[key], names)
        modified = True
    if modified:
        tidy(model)
    return modified


def is_storable(table: Floats | None) -> bool:
    """Whether a table has no masks: infinite values, or as good as."""
    return table is not None and not masks(table)


def int8_rows(table: Floats | None) -> tuple[Integers, Floats]:
    """Quantize a table symmetrically: integers `[rows, columns]` and scales `[rows]`."""
    assert table is not None
    scales = symmetric_scale(np.maximum(table.max(axis=1), -table.min(axis=1)))
    return np.rint(table / scales[:, None]).clip(INT8.low, INT8.high).astype(np.int8), scales


def _replace(node: ir.Node, integers: ir.Value, scales: ir.Value, names: Names) -> None:
    graph, old = graph_of(node), node.outputs[0]
    rows, wide, factor, result = (
        ir.Value(name=names.fresh(f"{old.name}_{part}")) for part in ("rows", "wide", "factor", "result")
    )
    add_node(graph, "Gather", [integers, node.inputs[1]], [rows], name=names.fresh(f"{node.name}_rows"))
    add_node(graph, "Cast", [rows], [wide], name=names.fresh(f"{node.name}_Cast"), to=int(ir.DataType.FLOAT))
    add_node(graph, "Gather", [scales, node.inputs[1]], [factor], name=names.fresh(f"{node.name}_scale"))
    add_node(graph, "Mul", [wide, factor], [result], name=node.name or "")
    take_output(result, old)
    graph.remove(node, safe=True)
