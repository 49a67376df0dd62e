"""GPTQ rounding: choose each weight's neighbour so that the layer's output, not the weight, stays close.

E. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
ICLR 2023. Weights are rounded along K, one after another; what one rounding gets wrong is made up for
by those not yet rounded, as far as the inputs are correlated: with H = E[x x^T] the weights after it
change by -error * U[i, i+1:] / U[i, i], U the upper Cholesky factor of H^-1.

Here the two members of a pair (see `saturation`) are rounded with the pair rule in force, so that the
rule's cost is made up for like any other rounding error.
"""

from typing import Any

import numpy as np

from onnxq.schemes import INT8, Array, Floats, Integers
from onnxq.techniques.blocks import row_blocks
from onnxq.techniques.saturation import PAIR_LIMIT

BLOCK = 128
DAMPING = 0.01
"""Share of the mean diagonal added to H, so that it can be inverted and few samples are not overfitted."""


def gptq_round(rows: Floats, moments: Floats, scales: Floats, *, pair_safe: bool) -> Integers:
    """Round weights to int8 by the inputs' second moments.

    Args:
        rows: [groups, channels, K], K in kernel order.
        moments: [groups, K, K], E[x x^T], or the covariance where the bias makes up for the mean.
        scales: [groups, channels].
        pair_safe: obey the pair rule.
    """
    factor = inverse_factor(moments)
    blocks = row_blocks((rows.shape[1], rows.shape[0] * rows.shape[2]))
    return np.concatenate([_round(rows[:, b], factor, scales[:, b], pair_safe=pair_safe) for b in blocks], axis=1)


def _round(rows: Floats, factor: Floats, scales: Floats, *, pair_safe: bool) -> Integers:
    steps = rows / scales[..., None]
    stored = np.empty(rows.shape, np.int8)
    size = rows.shape[-1]
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        errors = np.empty((*rows.shape[:2], stop - start), np.float32)
        for i in range(start, stop):
            target = _in_pair(steps, stored, i) if pair_safe else np.clip(np.rint(steps[..., i]), INT8.low, INT8.high)
            stored[..., i] = target
            errors[..., i - start] = (steps[..., i] - target) / factor[:, i, i, None]
            steps[..., i + 1 : stop] -= errors[..., i - start, None] * factor[:, None, i, i + 1 : stop]
        steps[..., stop:] -= errors @ factor[:, start:stop, stop:]
    return stored


def _in_pair(steps: Floats, stored: Integers, i: int) -> Any:
    """The i-th stored weight, in steps: the first of a pair leaves its neighbour room, the second keeps to it."""
    x = steps[..., i]
    if i % 2 == 0:
        if i + 1 == steps.shape[-1]:
            return np.clip(np.rint(x), INT8.low, INT8.high)
        y = steps[..., i + 1]
        excess = np.where(x * y > 0, np.maximum(np.abs(x) + np.abs(y) - PAIR_LIMIT, 0), 0)
        return np.clip(np.rint(np.sign(x) * np.maximum(np.abs(x) - excess / 2, 0)), INT8.low, INT8.high)
    first = stored[..., i - 1].astype(np.float32)
    room = np.minimum(PAIR_LIMIT - np.abs(first), INT8.high)
    low = np.where(first < 0, -room, INT8.low)
    high = np.where(first > 0, room, INT8.high)
    return np.clip(np.rint(x), low, high)


def inverse_factor(moments: Floats) -> Floats:
    """Upper Cholesky factors of the damped inverses, [groups, K, K] float32.

    In float32, which the damping makes good enough and which is twice as fast; in float64 where it is not,
    with more damping where a covariance of nearly constant inputs is not even positive; without any
    moments at last.
    """
    for kind, damping in ((np.float32, DAMPING), *((np.float64, DAMPING * 10**i) for i in range(4))):
        try:
            factor = _damped_factor(moments.astype(kind), damping)
        except np.linalg.LinAlgError:
            continue
        if np.isfinite(factor).all():
            return factor
    return np.broadcast_to(np.eye(moments.shape[-1], dtype=np.float32), moments.shape).copy()


def _damped_factor(damped: Array, damping: float) -> Floats:
    diagonal = np.einsum("gii->gi", damped)  # a view: the damping lands in `damped`
    mean = diagonal.mean(axis=1, keepdims=True)
    diagonal += damping * np.abs(mean) + (mean == 0)
    inverse = np.linalg.inv(damped)
    lower = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2)
    return np.ascontiguousarray(lower.transpose(0, 2, 1), np.float32)
