"""AWQ: multiply the weights of strong input channels before rounding, and divide the input by the same.

Rounding errors of these weights then shrink, because the input that they meet is smaller.
J. Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", MLSys 2024:
W x = (W s)(x / s) with s_k = E[x_k^2]^(alpha / 2). The alpha of least output error is taken, "off"
among the candidates.
"""

from collections.abc import Callable, Sequence

import numpy as np

from onnxq.types import Floats

ALPHAS = tuple(np.arange(1, 11) / 10)
MAX_ERROR_RATIO = 0.97
"""Scaling is used where it brings the error below this share of the error without it."""


def awq_scales(
    weights: Sequence[Floats], moments: Floats, rounded: Callable[[Floats], Floats]
) -> Floats | None:
    """Return factors s [K] for the channels of an input, or None where they gain too little.

    Args:
        weights: of all layers that take the input, each [channels, K].
        moments: E[x x^T], [K, K].
        rounded: returns a weight after rounding, as floats.
    """
    power = np.maximum(np.diag(moments), 1e-12)
    best, least = None, MAX_ERROR_RATIO * _error(weights, moments, rounded, np.ones_like(power))
    for alpha in ALPHAS:
        scales = (power.astype(np.float64) ** (alpha / 2)).astype(np.float32)
        scales /= np.sqrt(scales.max() * scales.min())
        scales = np.clip(scales, 1e-4, 1e4)
        error = _error(weights, moments, rounded, scales)
        if error < least:
            best, least = scales, error
    return best


def _error(
    weights: Sequence[Floats], moments: Floats, rounded: Callable[[Floats], Floats], scales: Floats
) -> float:
    """Return the power that rounding adds to the outputs, tr(E H E^T)."""
    total = 0.0
    for rows in weights:
        error = rounded(rows * scales) / scales - rows
        total += float(((error @ moments) * error).sum())
    return total
