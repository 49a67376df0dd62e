"""Saturation-free rounding: int8 weights that cannot overflow x86 kernels without VNNI.

Without VNNI (AVX2, early AVX-512), the U8S8 kernels use the instruction vpmaddubsw. It adds two
neighbouring products a0*w0 + a1*w1 along K in 16 bits, with saturation. With a <= 255 nothing saturates if

    |w0| + |w1| <= 128    for each pair (0,1), (2,3), ... of the same sign       (pair rule)

because 255 * 128 = 32640 fits into 16 bits; products of opposite signs subtract. The usual remedy gives
all weights 7 bits. Here only pairs that break the rule change, and a channel's scale grows only as far as
that lowers its squared error.

Weights are rows [channels, K], with K in the order in which the kernels pack it: see `kernel_order`.
"""

import numpy as np

from onnxq.techniques.row_blocks import by_blocks
from onnxq.types import INT8, Array, Floats, Integers

PAIR_LIMIT = 128
"""Most steps that the magnitudes of a pair may add up to."""
_GROWTH = np.concatenate([np.arange(1.0, 1.5, 0.02), np.arange(1.5, 2.01, 0.05)])
"""Multiples of a channel's scale to try."""


def kernel_order(weight: Array, channel_axis: int) -> Array:
    """Return a weight as [channels, K], in the order in which the kernels multiply.

    Convolution [M, C/group, *kernel]: K runs over (*kernel, C/group). MatMul and Gemm: over the rows.
    """
    rows = np.moveaxis(weight, channel_axis, 0)
    if weight.ndim > 2:
        rows = np.moveaxis(rows, 1, -1)
    return np.ascontiguousarray(rows).reshape(rows.shape[0], -1)


def original_order(rows: Array, shape: tuple[int, ...], channel_axis: int) -> Array:
    """Invert `kernel_order` for a weight of that shape."""
    moved = [shape[channel_axis], *(size for axis, size in enumerate(shape) if axis != channel_axis)]
    if len(shape) > 2:
        weight = np.moveaxis(rows.reshape(moved[0], *moved[2:], moved[1]), -1, 1)
    else:
        weight = rows.reshape(moved)
    return np.ascontiguousarray(np.moveaxis(weight, 0, channel_axis))


def _pairs(rows: Array) -> tuple[Array, Array]:
    """Return both members of each pair, [channels, K // 2], without a last one that has no neighbour."""
    even = rows.shape[1] // 2 * 2
    return rows[:, 0:even:2], rows[:, 1:even:2]


def saturating_pairs(rows: Integers) -> int:
    """Count the pairs of stored weights ([channels, K] in kernel order) that break the pair rule."""
    first, second = (part.astype(np.int32) for part in _pairs(rows))
    return int(np.count_nonzero((np.abs(first + second) > PAIR_LIMIT) & (first * second > 0)))


@by_blocks
def pair_safe_scales(rows: Floats, scales: Floats) -> Floats:
    """Return the scales [channels], at least those given, of least squared error under the pair rule.

    The error has two parts, both in closed form. Rounding costs K * scale^2 / 12. A pair whose sum exceeds
    128 steps by e costs e^2 / 2, its squared distance from the nearest point that obeys the rule.
    """
    first, second = _pairs(rows)
    sums = np.where(first * second > 0, np.abs(first + second), 0.0)
    channel, column = np.nonzero(sums > PAIR_LIMIT * scales[:, None])
    if len(channel) == 0:
        return scales
    large = sums[channel, column].astype(np.float64)
    best, best_error = scales.astype(np.float64), np.full(len(scales), np.inf)
    for growth in _GROWTH:
        candidate = scales.astype(np.float64) * growth
        excess = np.maximum(large - PAIR_LIMIT * candidate[channel], 0.0)
        error = rows.shape[1] * candidate**2 / 12 + np.bincount(channel, excess**2 / 2, len(scales))
        better = error < best_error
        best, best_error = np.where(better, candidate, best), np.where(better, error, best_error)
    return best.astype(np.float32)


@by_blocks
def round_pair_safe(rows: Floats, scales: Floats) -> Integers:
    """Round [channels, K] to int8, each pair to the nearest point that obeys the pair rule."""
    # round to nearest
    steps = rows / scales[:, None]
    stored: Integers = np.clip(np.rint(steps), INT8.low, INT8.high).astype(np.int8)
    first, second = (part.astype(np.int16) for part in _pairs(stored))
    channel, pair = np.nonzero((np.abs(first + second) > PAIR_LIMIT) & ((first > 0) == (second > 0)))
    # move each pair that breaks the rule to the nearest point on |w0| + |w1| = 128
    x, y = np.abs(steps[channel, 2 * pair]), np.abs(steps[channel, 2 * pair + 1])
    a = np.clip(np.rint((x - y + PAIR_LIMIT) / 2), 1, INT8.high)
    sign = np.sign(steps[channel, 2 * pair])
    stored[channel, 2 * pair] = sign * a
    stored[channel, 2 * pair + 1] = sign * np.minimum(PAIR_LIMIT - a, INT8.high)
    return stored
