"""Weights with which the U8S8 kernels of x86 CPUs without VNNI cannot saturate.

Those kernels (AVX2, AVX-512 without VNNI: the instruction vpmaddubsw) add two neighbouring products
a0*w0 + a1*w1 along K in 16 bits, saturating. With a <= 255 nothing saturates if

    |w0| + |w1| <= 128    for each pair of neighbours (0,1), (2,3), ... of the same sign       (pair rule)

because 255 * 128 = 32640 fits and opposite signs subtract. Only pairs that break the rule are
changed, and each channel's scale grows as far as that lowers its squared error: weights keep their
full range where they can. K is ordered as the kernels pack it, see `kernel_order`.
"""

import numpy as np

from onnxq.techniques.row_blocks import by_blocks
from onnxq.types import INT8, Array, Floats, Integers

PAIR_LIMIT = 128
_GROWTH = np.concatenate([np.arange(1.0, 1.5, 0.02), np.arange(1.5, 2.01, 0.05)])


def kernel_order(weight: Array, channel_axis: int) -> Array:
    """A weight as [channels, K] in the order in which the kernels multiply.

    Convolution [M, C/group, *kernel]: K runs over (*kernel, C/group). MatMul and Gemm: over the rows.
    """
    rows = np.moveaxis(weight, channel_axis, 0)
    if weight.ndim > 2:
        rows = np.moveaxis(rows, 1, -1)
    return np.ascontiguousarray(rows).reshape(rows.shape[0], -1)


def original_order(rows: Array, shape: tuple[int, ...], channel_axis: int) -> Array:
    """The inverse of `kernel_order` for a weight of that shape."""
    moved = [shape[channel_axis], *(size for axis, size in enumerate(shape) if axis != channel_axis)]
    if len(shape) > 2:
        weight = np.moveaxis(rows.reshape(moved[0], *moved[2:], moved[1]), -1, 1)
    else:
        weight = rows.reshape(moved)
    return np.ascontiguousarray(np.moveaxis(weight, 0, channel_axis))


def _pairs(rows: Array) -> tuple[Array, Array]:
    """Both members of each pair, [channels, K // 2]; a last one without a neighbour cannot saturate."""
    even = rows.shape[1] // 2 * 2
    return rows[:, 0:even:2], rows[:, 1:even:2]


def saturating_pairs(rows: Integers) -> int:
    """How many pairs of stored weights ([channels, K] in kernel order) break the pair rule."""
    first, second = (part.astype(np.int32) for part in _pairs(rows))
    return int(np.count_nonzero((np.abs(first + second) > PAIR_LIMIT) & (first * second > 0)))


@by_blocks
def pair_safe_scales(rows: Floats, scales: Floats) -> Floats:
    """Scales [channels], at least those given, with the least squared error under the pair rule.

    The error has two parts, both in closed form: rounding, K * scale^2 / 12, and for each pair whose
    sum exceeds 128 steps by e the projection onto the rule, e^2 / 2.
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
    """Round [channels, K] to int8 under the pair rule, each pair to the nearest point that obeys it."""
    steps = rows / scales[:, None]
    stored: Integers = np.clip(np.rint(steps), INT8.low, INT8.high).astype(np.int8)
    first, second = (part.astype(np.int16) for part in _pairs(stored))
    channel, pair = np.nonzero((np.abs(first + second) > PAIR_LIMIT) & ((first > 0) == (second > 0)))
    x, y = np.abs(steps[channel, 2 * pair]), np.abs(steps[channel, 2 * pair + 1])
    a = np.clip(np.rint((x - y + PAIR_LIMIT) / 2), 1, INT8.high)
    sign = np.sign(steps[channel, 2 * pair])
    stored[channel, 2 * pair] = sign * a
    stored[channel, 2 * pair + 1] = sign * np.minimum(PAIR_LIMIT - a, INT8.high)
    return stored


def emulate_dot(activations: Integers, rows: Integers) -> Integers:
    """What the saturating kernels accumulate for one uint8 vector [K] and int8 rows [channels, K]."""
    a, w = np.asarray(activations, np.int32), np.asarray(rows, np.int32)
    if w.shape[1] % 2:
        a, w = np.pad(a, (0, 1)), np.pad(w, ((0, 0), (0, 1)))
    products = a * w
    sums = np.clip(products[:, ::2] + products[:, 1::2], -(2**15), 2**15 - 1)
    total = sums.sum(axis=1)
    return np.asarray(total)
