"""Descriptions of weights in the codings of the weight-only mode, for its report."""

from onnxq.comparison.errors import decibels
from onnxq.formats.matmul_nbits import book_bytes, coded_bytes
from onnxq.quantization.stored_weight import StoredWeight, error_share
from onnxq.techniques.blockwise import Coded
from onnxq.techniques.codebooks import BookCoded
from onnxq.types import Floats, Integers

BOOK_BITS = 4


def of_blocks(rows: Floats, coded: Coded, share: float | None = None, *, padded: bool = True) -> StoredWeight:
    """Describe a weight [channels, K] in blocks.

    Args:
        rows: the float weight.
        coded: its codes.
        share: power of the error as a share of the signal's; None for that of the weight itself.
        padded: whether the file fills the last block up.
    """
    channels, columns = coded.codes.shape
    share = error_share(rows, coded.decoded()) if share is None else share
    count = coded_bytes(channels, columns, coded.grid, padded=padded)
    return StoredWeight(coded.grid.bits, count, 4 * rows.size, decibels(share))


def of_book(rows: Floats, coded: BookCoded) -> StoredWeight:
    """Describe a weight [channels, K] in codes of a book."""
    share = error_share(rows, coded.decoded())
    return StoredWeight(BOOK_BITS, book_bytes(*coded.shape, coded.block), 4 * rows.size, decibels(share))


def of_integers(array: Floats, integers: Integers, scales: Floats) -> StoredWeight:
    """Describe a weight in int8 with scales that can be broadcast."""
    share = error_share(array, integers * scales)
    return StoredWeight(8, integers.nbytes + scales.nbytes, 4 * array.size, decibels(share))
