"""GPTQ rounding into blocks of few bits; see `gptq` for the idea and its source.

The scales are fixed beforehand, so columns can be rounded in any order. Those of the strongest inputs
come first, and the later roundings leave little to compensate ("act-order with static groups").
"""

import numpy as np

from onnxq.techniques.blockwise import Coded, Grid, parameters
from onnxq.techniques.gptq import BLOCK, propagation_factors
from onnxq.types import Floats, Integers


def gptq_blocks(rows: Floats, moments: Floats, grid: Grid) -> Coded:
    """Round weights [channels, K] by the second moments of the inputs, [K, K]."""
    scales, zeros = parameters(rows, grid, _power(moments))
    return gptq_codes(rows, moments, grid, scales, zeros)


def gptq_codes(rows: Floats, moments: Floats, grid: Grid, scales: Floats, zeros: Integers) -> Coded:
    """Round weights [channels, K] with given scales and zero points, [channels, blocks]."""
    power, columns = _power(moments), rows.shape[1]
    order = np.argsort(-power, kind="stable")
    shares = propagation_factors(moments[None][:, order][:, :, order])[0]
    of_block = order // grid.block
    # weights [K, channels]; each becomes its rounding error
    errors = np.ascontiguousarray(rows.T[order], np.float32)
    codes = np.empty(errors.shape, np.uint8)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        left = errors[start:stop] + shares[:start, start:stop].T @ errors[:start]
        for i in range(start, stop):
            scale, zero = scales[:, of_block[i]], zeros[:, of_block[i]].astype(np.float32)
            codes[i] = np.rint(left[i - start] / scale + zero).clip(0, grid.top)
            errors[i] -= (codes[i] - zero) * scale
            left[i - start + 1 :] += shares[i, i + 1 : stop, None] * errors[i]
    result = np.empty(rows.shape, np.uint8)
    result[:, order] = codes.T
    return Coded(grid, result, scales, zeros)


def _power(moments: Floats) -> Floats:
    """Return E[x_k^2], [K]."""
    return np.maximum(np.diag(moments), 0).astype(np.float32)
