"""Tables that are looked up (embeddings), and heads that share them, in 8 bits: stored once, read by GatherBlockQuantized."""

import hashlib
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxq.formats.embeddings import looked_up
from onnxq.formats.matmul_nbits import BitsWriter
from onnxq.graph.edit import constant, graph_of, sizes
from onnxq.techniques.blockwise import Coded, Grid, round_to_nearest
from onnxq.types import Floats

Tables = Mapping[str, list[ir.Node]]
"""Look-ups by a digest of their table."""
NARROWEST_BLOCK = 16


def find_tables(model: ir.Model) -> dict[str, list[ir.Node]]:
    """Look-ups of rows in constant tables, by a digest of the table."""
    found: dict[str, list[ir.Node]] = {}
    for node in looked_up(model):
        array = constant(node.inputs[0]) if graph_of(node) is model.graph else None
        if array is not None:
            found.setdefault(_digest(array), []).append(node)
    return found


def table_of(rows: Floats, tables: Tables) -> str | None:
    """The table that a product's weight [channels, K] is, as where a language model's head is its embedding."""
    if rows.shape not in {tuple(sizes(nodes[0].inputs[0]) or ()) for nodes in tables.values()}:
        return None
    key = _digest(rows)
    return key if key in tables else None


def code_table(rows: Floats, block: int) -> Coded:
    """Tables, and heads that share them, take 8 bits: each row counts alone, no rounding makes up for another's."""
    block = next(
        (block for block in (block, 32, NARROWEST_BLOCK) if rows.shape[1] % block == 0), NARROWEST_BLOCK
    )
    return round_to_nearest(rows, Grid(8, block, symmetric=True))


def code_tables(writer: BitsWriter, tables: Tables, block: int) -> None:
    """Replace all look-ups, in place."""
    for key, nodes in tables.items():
        array = constant(nodes[0].inputs[0])
        assert array is not None
        coded = code_table(array, block)
        if array.shape[1] % coded.grid.block:
            continue  # the kernel takes whole blocks
        for node in nodes:
            writer.embedding(node, coded, key)


def _digest(array: Floats) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
