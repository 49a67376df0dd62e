"""Embedding tables of a model, and the products that share them."""

import hashlib
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxq.formats.embeddings import is_storable, looked_up
from onnxq.graph.edit import constant, sizes
from onnxq.types import Floats

Tables = Mapping[str, list[ir.Node]]
"""Look-ups by the digest of their table."""


def find_tables(model: ir.Model) -> dict[str, list[ir.Node]]:
    """Return the look-ups of rows in constant tables, by the digest of the table."""
    found: dict[str, list[ir.Node]] = {}
    for node in looked_up(model):
        array = constant(node.inputs[0])
        if array is not None and is_storable(array):
            found.setdefault(_digest(array), []).append(node)
    return found


def table_of(rows: Floats, tables: Tables) -> str | None:
    """Return the digest of the table that equals a product's weight [channels, K], or None.

    The output layer of a language model often shares the embedding table.
    """
    if rows.shape not in {tuple(sizes(nodes[0].inputs[0]) or ()) for nodes in tables.values()}:
        return None
    key = _digest(rows)
    return key if key in tables else None


def _digest(array: Floats) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
