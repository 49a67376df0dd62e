"""Inputs whose range is too wide for 8 bits, divided by magnitude: large, small and smaller values in columns of their own.

x is the sum of pieces, each of which is what of x lies between two bounds (those of `largest * range**-i`). Later pieces
are multiplied by a growing gain and their weights divided by it, so that small values get small steps; and the columns
are scaled one by one as in SmoothQuant (G. Xiao et al., ICML 2023), towards what the weights make of them. That costs the
weights precision, which a second copy of each column gives back: divided by FINE, it multiplies what rounding left over
of the weight. (Columns instead of bits, as in outlier channel splitting, R. Zhao et al., ICML 2019.)

The columns stand side by side twice, and each is itself in one place and its copy in the other, by turns: so that of two
neighbours along K one is a copy, whose weights are small, and they obey the pair rule (see `saturation`).
"""

from dataclasses import dataclass

import numpy as np

from onnxq.arithmetic import symmetric_scale
from onnxq.schemes import INT8, Array, Floats, Integers
from onnxq.techniques.saturation import PAIR_LIMIT

PIECES = {2: (32.0, 32.0), 3: (16.0, 8.0), 4: (8.0, 4.0)}
"""By how much the bounds of so many pieces shrink, and by how much their gains grow: the best of a grid on power spectrograms. Of
several pieces the product of bound and gain shrinks too, so that the largest values keep most of the range."""
FINE = 16
"""Steps of a weight's copy in one of the weight."""
TOWARDS = 0.75
"""How much of a column's range its scale takes away; the rest is left to the weights."""


@dataclass(frozen=True)
class Split:
    """How an input [..., K] is divided, and its weights.

    bounds   [pieces - 1, K], falling; each piece but the last is what lies outside the next bound
    factors  [2 * pieces * K], of the pieces side by side, twice
    stored   [..., rows, 2 * pieces * K] int8
    scales   [..., rows]
    """

    bounds: Floats
    factors: Floats
    stored: Integers
    scales: Floats


def split_input(weight: Floats, largest: Floats, pieces: int) -> Split:
    """Divide an input.

    Args:
        weight: [..., rows, K].
        largest: [K], largest magnitude of each column; where a column was always 0, it counts as the largest of all.
        pieces: how many, of `PIECES`.
    """
    shrink, grow = PIECES[pieces]
    largest = np.where(largest > 0, largest, largest.max() or 1.0).astype(np.float64)
    weighed = np.abs(weight).reshape(-1, weight.shape[-1]).max(axis=0).astype(np.float64)
    scales = largest**TOWARDS / np.where(weighed > 0, weighed, 1.0) ** (1 - TOWARDS)
    gains = grow ** np.arange(pieces)
    wide = np.concatenate([weight * (scales / gain) for gain in gains], axis=-1)
    step = symmetric_scale(np.abs(wide).max(axis=-1)) * np.float32(INT8.high / (PAIR_LIMIT - FINE // 2))
    steps = wide / step[..., None]
    whole = np.rint(steps)
    rest = np.rint((steps - whole) * FINE)
    factors = np.concatenate([gain / scales for gain in gains])
    itself = np.arange(len(factors)) % 2 == 0

    def twice(own: Array, copy: Array) -> Array:
        return np.concatenate([np.where(itself, own, copy), np.where(itself, copy, own)], axis=-1)

    return Split(
        np.stack([largest * shrink**-i for i in range(1, pieces)]).astype(np.float32),
        twice(factors, factors / FINE).astype(np.float32),
        twice(whole, rest).astype(np.int8),
        step,
    )
