"""Embedding tables, and heads that share them, in 8 bits: stored once and read by GatherBlockQuantized."""

from onnxq.formats.embedding_tables import Tables
from onnxq.formats.matmul_nbits import BitsWriter
from onnxq.graph.edit import constant
from onnxq.techniques.blockwise import Coded, Grid, round_to_nearest
from onnxq.types import Floats

NARROWEST_BLOCK = 16


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
