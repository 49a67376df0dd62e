"""GPTQ rounding into blocks of few bits; see `gptq` for the idea and its source.

The scales are fixed beforehand, so that columns can be taken in the order of their inputs' power, the largest first: what
later roundings must make up for is then small ("act-order with static groups").
"""

import numpy as np

from onnxq.schemes import Floats
from onnxq.techniques.blockwise import Coded, Grid, parameters
from onnxq.techniques.gptq import inverse_factor

BLOCK = 128


def gptq_blocks(rows: Floats, moments: Floats, grid: Grid) -> Coded:
    """Round weights [channels, K] by the inputs' second moments [K, K]."""
    power = np.maximum(np.diag(moments), 0).astype(np.float32)
    scales, zeros = parameters(rows, grid, power)
    columns = rows.shape[1]
    order = np.argsort(-power, kind="stable")
    factor = inverse_factor(moments[None][:, order][:, :, order])[0]
    of_block = order // grid.block
    left = rows[:, order].astype(np.float32)
    codes = np.empty(rows.shape, np.uint8)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        errors = np.empty((len(rows), stop - start), np.float32)
        for i in range(start, stop):
            scale, zero = scales[:, of_block[i]], zeros[:, of_block[i]].astype(np.float32)
            code = np.rint(left[:, i] / scale + zero).clip(0, grid.top)
            codes[:, i] = code
            error = (left[:, i] - (code - zero) * scale) / factor[i, i]
            left[:, i + 1 : stop] -= error[:, None] * factor[i, i + 1 : stop]
            errors[:, i - start] = error
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    result = np.empty_like(codes)
    result[:, order] = codes
    return Coded(grid, result, scales, zeros)
