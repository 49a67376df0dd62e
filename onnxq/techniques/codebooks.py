"""Four-bit codes whose values are a table, NF4 or FP4, times the largest magnitude of a block (absmax).

NF4: T. Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023, appendix E. FP4: the sign, two
bits of exponent and one of mantissa, scaled to 1, numbered as in bitsandbytes. The runtime's MatMulBnb4
decodes both.
"""

from dataclasses import dataclass

import numpy as np

from onnxq.types import Floats, Integers

NF4: Floats = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
], np.float32)  # fmt: skip
_POSITIVE: Floats = np.array([0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12], np.float32)
FP4: Floats = np.concatenate([_POSITIVE, -_POSITIVE])
BOOKS: dict[str, Floats] = {"fp4": FP4, "nf4": NF4}
"""Values by code; the place in this table is the runtime's `quant_type`."""


@dataclass(frozen=True)
class BookCoded:
    """A weight [channels, K] in codes of a book; blocks run over the flattened weight.

    name    of the book
    block   values that share an absmax
    shape   (channels, K)
    codes   [channels * K] uint8
    absmax  [blocks] float32
    """

    name: str
    block: int
    shape: tuple[int, int]
    codes: Integers
    absmax: Floats

    def decoded(self) -> Floats:
        """Return the weight that the codes represent, [channels, K]."""
        largest = np.repeat(self.absmax, self.block)[: self.codes.size]
        values: Floats = (BOOKS[self.name][self.codes] * largest).reshape(self.shape)
        return values


def encode_book(rows: Floats, name: str, block: int) -> BookCoded:
    """Return the nearest codes of a weight [channels, K] in blocks of a book."""
    book = BOOKS[name]
    flat = rows.reshape(-1)
    missing = -flat.size % block
    blocks = np.pad(flat, (0, missing)).reshape(-1, block)
    absmax = np.abs(blocks).max(1)
    ratios = blocks / np.where(absmax == 0, 1, absmax)[:, None]
    order = np.argsort(book, kind="stable")
    middles = (book[order][1:] + book[order][:-1]) / 2
    codes = order[np.searchsorted(middles, ratios)].astype(np.uint8)
    shape = (rows.shape[0], rows.shape[1])
    return BookCoded(name, block, shape, codes.reshape(-1)[: flat.size], absmax.astype(np.float32))
