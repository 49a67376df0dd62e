"""GPTQ: round weights so that the layer's output, not each weight, stays close to float.

E. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
ICLR 2023. Weights are rounded one after another along K, and each rounding error is compensated by the
weights after it, as far as their inputs are correlated.

Let H = E[x x^T] = V V^T with V upper triangular. Errors e then have the output error |V^T e|^2. Its i-th
term becomes zero if weight i changes by the sum over j < i of e[j] * V[j, i] / V[i, i]. That is GPTQ
without the inverse of H (J. Chen et al., "The Geometry of LLM Quantization: GPTQ as Babai's Nearest Plane
Algorithm", 2025).

The two members of a pair (see `saturation`) are rounded under the pair rule here, so that later weights
compensate the cost of the rule too.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxq.techniques.row_blocks import row_blocks
from onnxq.techniques.saturation import PAIR_LIMIT
from onnxq.types import INT8, Array, Floats, Integers

BLOCK = 32
"""Weights of a row per block: errors pass one by one within a block, all at once to the blocks after it."""
DAMPING = 0.01
"""Share of the mean diagonal added to H, so that H is invertible and few samples are not overfitted."""


def gptq_round(
    rows: Floats, moments: Floats, scales: Floats, *, pair_safe: bool, limit: int = INT8.high
) -> Integers:
    """Round weights to int8 by the second moments of the inputs.

    Args:
        rows: [groups, channels, K], K in kernel order.
        moments: [groups, K, K], E[x x^T], or the covariance where bias correction handles the mean.
        scales: [groups, channels].
        pair_safe: obey the pair rule.
        limit: largest magnitude of the integers.
    """
    return _in_blocks(rows, propagation_factors(moments), scales, pair_safe=pair_safe, limit=limit)


def gptq_search(
    rows: Floats,
    moments: Floats,
    scales: Floats,
    factors: Sequence[float],
    *,
    pair_safe: bool,
    shared: bool = False,
) -> tuple[Integers, Floats]:
    """Round weights with the best of several multiples of their scales; return integers and scales.

    Args:
        rows: [groups, channels, K], K in kernel order.
        moments: [groups, K, K].
        scales: [groups, channels].
        factors: the multiples.
        pair_safe: obey the pair rule.
        shared: all channels of a group take the same multiple.
    """
    shares = propagation_factors(moments.copy())
    best: tuple[Integers, Floats, Floats] | None = None
    for factor in factors:
        tried = (scales * factor).astype(np.float32)
        stored = _in_blocks(rows, shares, tried, pair_safe=pair_safe)
        off = stored * tried[..., None] - rows
        error = ((off @ moments) * off).sum(axis=-1)
        if shared:
            error = np.broadcast_to(error.sum(axis=1, keepdims=True), error.shape)
        if best is None:
            best = stored, tried, error
            continue
        better = error < best[2]
        best = (
            np.where(better[..., None], stored, best[0]),
            np.where(better, tried, best[1]),
            np.where(better, error, best[2]),
        )
    assert best is not None
    return best[0], best[1]


def _in_blocks(
    rows: Floats, shares: Floats, scales: Floats, *, pair_safe: bool, limit: int = INT8.high
) -> Integers:
    """Round a block of channels at a time; see `row_blocks`."""
    blocks = row_blocks((rows.shape[1], rows.shape[0] * rows.shape[2]))
    return np.concatenate(
        [_round(rows[:, b], shares, scales[:, b], pair_safe=pair_safe, limit=limit) for b in blocks], axis=1
    )


def _round(rows: Floats, shares: Floats, scales: Floats, *, pair_safe: bool, limit: int) -> Integers:
    """Round weights [groups, channels, K] along K."""
    # weights in steps, [groups, K, channels]; each becomes its rounding error
    errors = np.ascontiguousarray((rows / scales[..., None]).transpose(0, 2, 1))
    stored = np.empty(errors.shape, np.int8)
    size = rows.shape[-1]
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        # compensate the errors of all blocks before this one
        steps = errors[:, start:stop] + shares[:, :start, start:stop].transpose(0, 2, 1) @ errors[:, :start]
        # round one weight after another
        for i in range(stop - start):
            target = (
                _in_pair(steps, stored[:, start:stop], i)
                if pair_safe
                else np.clip(np.rint(steps[:, i]), -limit, limit)
            )
            stored[:, start + i] = target
            errors[:, start + i] -= target
            steps[:, i + 1 :] += shares[:, start + i, start + i + 1 : stop, None] * errors[:, start + i, None]
    return np.ascontiguousarray(stored.transpose(0, 2, 1))


def _in_pair(steps: Floats, stored: Integers, i: int) -> Any:
    """Return the i-th stored weights under the pair rule.

    The first of a pair gives up half of the excess, the second takes the room that the first leaves.
    """
    x = steps[:, i]
    if i % 2 == 0:
        if i + 1 == steps.shape[1]:
            return np.clip(np.rint(x), INT8.low, INT8.high)
        y = steps[:, i + 1]
        excess = np.where(x * y > 0, np.maximum(np.abs(x) + np.abs(y) - PAIR_LIMIT, 0), 0)
        return np.clip(np.rint(np.sign(x) * np.maximum(np.abs(x) - excess / 2, 0)), INT8.low, INT8.high)
    first = stored[:, i - 1].astype(np.float32)
    room = np.minimum(PAIR_LIMIT - np.abs(first), INT8.high)
    low = np.where(first < 0, -room, INT8.low)
    high = np.where(first > 0, room, INT8.high)
    return np.clip(np.rint(x), low, high)


def propagation_factors(moments: Floats) -> Floats:
    """Return the share of each weight's error that passes to each later weight, [groups, K, K] float32.

    Only the part above the diagonal counts. The damping makes float32 good enough, at twice the speed. A
    covariance of nearly constant inputs may not be positive: then float64 is tried, with more and more
    damping. Moments that never work count as uncorrelated inputs.
    """
    for kind, damping in ((np.float32, DAMPING), *((np.float64, DAMPING * 10**i) for i in range(4))):
        try:
            factor = _damped_factor(moments.astype(kind), damping)
        except np.linalg.LinAlgError:
            continue
        shares: Floats = (factor / np.einsum("gii->gi", factor)[:, None, :]).astype(np.float32)
        if np.isfinite(shares).all():
            return shares
    return np.broadcast_to(np.eye(moments.shape[-1], dtype=np.float32), moments.shape).copy()


def _damped_factor(damped: Array, damping: float) -> Array:
    """Return the upper triangular V of V V^T = H + damping; `damped` is changed."""
    diagonal = np.einsum("gii->gi", damped)  # a view: the damping goes into `damped`
    mean = diagonal.mean(axis=1, keepdims=True)
    diagonal += damping * np.abs(mean) + (mean == 0)
    return np.asarray(np.linalg.cholesky(damped[:, ::-1, ::-1])[:, ::-1, ::-1])
