"""Weights in few bits: a block of neighbours along K shares a scale, and a zero point if affine.

real = scale * (code - zero), codes 0 .. 2^bits - 1. A symmetric block has zero = 2^(bits - 1). Its
lowest code has no positive counterpart, so its scale takes the sign that lets this code represent the
weight of largest magnitude.
"""

from dataclasses import dataclass

import numpy as np

from onnxq.types import Array, Floats, Integers

SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Shares of a block's range to try: clipping the largest weight may cost less than wider steps."""


@dataclass(frozen=True)
class Grid:
    """The coding of blocks.

    bits       4 or 8
    block      neighbours along K that share a scale
    symmetric  no zero point
    shared     the blocks that have the same scale: "block" (none), "channel" or "tensor"
    """

    bits: int
    block: int
    symmetric: bool
    shared: str = "block"

    @property
    def top(self) -> int:
        """The highest code."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric block."""
        return 1 << (self.bits - 1)


@dataclass(frozen=True)
class Coded:
    """A weight [channels, K] in blocks.

    codes   [channels, K] uint8
    scales  [channels, blocks] float32
    zeros   [channels, blocks] uint8
    """

    grid: Grid
    codes: Integers
    scales: Floats
    zeros: Integers

    def decoded(self) -> Floats:
        """Return the weight that the codes represent, [channels, K]."""
        columns = self.codes.shape[1]
        scales, zeros = (spread(each, self.grid.block, columns) for each in (self.scales, self.zeros))
        values: Floats = (self.codes.astype(np.float32) - zeros.astype(np.float32)) * scales
        return values


def parameters(rows: Floats, grid: Grid, power: Floats | None = None) -> tuple[Floats, Integers]:
    """Return scales and zero points, [channels, blocks], of least squared error among the tried ranges.

    Args:
        rows: [channels, K].
        grid: the coding.
        power: E[x_k^2], [K], to weight the errors by; None weights them equally.
    """
    blocks = as_blocks(rows, grid.block)
    weights = None if power is None else as_blocks(power[None].astype(np.float32), grid.block)
    low, high = _range(blocks, grid)
    best = _ends(low, high, grid)
    if grid.shared == "tensor":
        return best
    least = np.full(low.shape, np.inf, np.float32)
    scales, zeros = best[0].copy(), best[1].copy()
    for shrink in SHRINKS:
        tried = _ends(low * np.float32(shrink), high * np.float32(shrink), grid)
        error = np.square(blocks - _rounded(blocks, *tried, grid))
        total = (error if weights is None else error * weights).sum(2)
        if grid.shared == "channel":
            total = np.broadcast_to(total.sum(1, keepdims=True), total.shape)
        better = total < least
        least = np.where(better, total, least)
        scales, zeros = np.where(better, tried[0], scales), np.where(better, tried[1], zeros)
    return scales, zeros


def _range(blocks: Floats, grid: Grid) -> tuple[Floats, Floats]:
    """Return the smallest and largest weight of each block, channel or tensor, [channels, blocks]."""
    low, high = blocks.min(2), blocks.max(2)
    if grid.shared != "block":
        axis = 1 if grid.shared == "channel" else None
        low = np.broadcast_to(low.min(axis=axis, keepdims=True), low.shape)
        high = np.broadcast_to(high.max(axis=axis, keepdims=True), high.shape)
    return low, high


def _ends(low: Floats, high: Floats, grid: Grid) -> tuple[Floats, Integers]:
    """Return the scale and zero point that just represent values from low to high."""
    if grid.symmetric:
        largest = np.where(-low > high, low, high)
        scales = -largest / grid.middle
        scales = np.where(np.abs(scales) < np.finfo(np.float32).tiny, 1.0, scales)
        return np.asarray(scales, np.float32), np.full(np.shape(scales), grid.middle, np.uint8)
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    scales = (high - low) / grid.top
    scales = np.where(scales < np.finfo(np.float32).tiny, 1.0, scales)
    zeros = np.rint(-low / scales).clip(0, grid.top)
    return np.asarray(scales, np.float32), np.asarray(zeros, np.uint8)


def as_blocks(rows: Array, block: int) -> Array:
    """Return [channels, K] as [channels, blocks, block], the last block filled with zeros."""
    missing = -rows.shape[1] % block
    padded = np.pad(rows, ((0, 0), (0, missing))) if missing else rows
    return padded.reshape(len(rows), -1, block)


def spread(values: Array, block: int, columns: int) -> Array:
    """Return values of blocks [channels, blocks] for each weight, [channels, K]."""
    return np.repeat(values, block, axis=1)[:, :columns]


def _rounded(blocks: Floats, scales: Floats, zeros: Integers, grid: Grid) -> Floats:
    """Return the values of blocks [channels, blocks, block] after rounding."""
    zeros = zeros[..., None].astype(np.float32)
    steps = blocks / scales[..., None]
    steps += zeros
    np.rint(steps, out=steps)
    np.clip(steps, 0, grid.top, out=steps)
    steps -= zeros
    steps *= scales[..., None]
    return steps


def encode(rows: Floats, scales: Floats, zeros: Integers, grid: Grid) -> Coded:
    """Round each weight to the nearest code."""
    blocks = as_blocks(rows, grid.block)
    codes = np.rint(blocks / scales[..., None] + zeros[..., None]).clip(0, grid.top).astype(np.uint8)
    return Coded(grid, codes.reshape(len(rows), -1)[:, : rows.shape[1]], scales, zeros)


def round_to_nearest(rows: Floats, grid: Grid) -> Coded:
    """Round to nearest (RTN): each block keeps its full range, each weight takes the nearest code.

    Args:
        rows: [channels, K].
        grid: the coding.
    """
    blocks = as_blocks(rows, grid.block)
    low, high = _range(blocks, grid)
    return encode(rows, *_ends(low, high, grid), grid)
