"""HQQ: choose zero points so that few weights have a large rounding error, without any data.

H. Badri and A. Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023: the error
W - W_q is split into outliers, found by the shrinkage operator of an l_p norm with p < 1, and a rest,
which the zero point absorbs.
"""

import numpy as np

from onnxq.techniques.blockwise import Coded, Grid, as_blocks, encode, parameters
from onnxq.types import Floats

NORM, BETA, GROWTH, STEPS = 0.7, 10.0, 1.01, 20


def half_quadratic(rows: Floats, grid: Grid) -> Coded:
    """Round weights [channels, K].

    A symmetric grid has no zero point to choose; it keeps the best of the tried ranges.
    """
    scales, zeros = parameters(rows, grid)
    if grid.symmetric or grid.shared == "tensor":
        return encode(rows, scales, zeros, grid)
    blocks = as_blocks(rows, grid.block)
    factor = scales[..., None]
    moving = zeros[..., None].astype(np.float32)
    best, least = zeros, np.abs(rows - encode(rows, scales, zeros, grid).decoded()).sum(1)
    beta = BETA
    for _ in range(STEPS):
        codes = np.rint(blocks / factor + moving).clip(0, grid.top)
        error = blocks - (codes - moving) * factor
        size = np.abs(error)
        outliers = np.sign(error) * np.maximum(size - np.power(size + 1e-8, NORM - 1) / beta, 0)
        moving = (codes - (blocks - outliers) / factor).mean(2, keepdims=True)
        tried = np.rint(moving[..., 0]).clip(0, grid.top).astype(np.uint8)
        found = np.abs(rows - encode(rows, scales, tried, grid).decoded()).sum(1)
        best, least = np.where((found < least)[:, None], tried, best), np.minimum(found, least)
        beta *= GROWTH
    return encode(rows, scales, best, grid)
