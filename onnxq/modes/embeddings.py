"""Embedding tables, and output layers that share them, in 8 bits: GatherBlockQuantized reads them."""

from onnxq.formats.embedding_tables import Tables
from onnxq.formats.matmul_nbits import BitsWriter
from onnxq.graph.edit import constant
from onnxq.modes.stored_weights import of_blocks
from onnxq.quantization.stored_weight import StoredWeight
from onnxq.techniques.blockwise import Coded, Grid, round_to_nearest
from onnxq.types import Floats

NARROWEST_BLOCK = 16


def code_table(rows: Floats, block: int) -> Coded:
    """Round an embedding table to 8 bits: rows are used one by one, so their errors do not average out.

    Output layers that share the table use the same codes.
    """
    block = next(
        (block for block in (block, 32, NARROWEST_BLOCK) if rows.shape[1] % block == 0), NARROWEST_BLOCK
    )
    return round_to_nearest(rows, Grid(8, block, symmetric=True))


def code_tables(writer: BitsWriter, tables: Tables, block: int) -> dict[str, StoredWeight]:
    """Quantize all embedding tables and their look-ups, in place; return them by the name of each look-up."""
    found: dict[str, StoredWeight] = {}
    for key, nodes in tables.items():
        array = constant(nodes[0].inputs[0])
        assert array is not None
        coded = code_table(array, block)
        if array.shape[1] % coded.grid.block:
            continue  # the kernel needs whole blocks
        for node in nodes:
            writer.embedding(node, coded, key)
            found[node.name or ""] = of_blocks(array, coded)
    return found
