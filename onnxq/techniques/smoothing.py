"""Smoothing: move outlier channels of an activation into the weights, where they cost less.

G. Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
Models", ICML 2023: X W = (X / s)(s W) with s_k = max|X_k|^alpha / max|W_k|^(1 - alpha). One alpha does
not fit all layers, so each layer takes the alpha of least expected noise, "off" among the candidates.
"""

import numpy as np

from onnxq.types import Floats

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
MAX_NOISE_RATIO = 0.65
"""Smoothing is used where it brings the noise below this share: the division costs time."""


def smoothing_scales(low: Floats, high: Floats, power: Floats, rows: Floats) -> Floats | None:
    """Return divisors s [K] for the channels of an activation, or None where they gain too little.

    Args:
        low: least value of each channel, [K].
        high: largest value of each channel, [K].
        power: E[x_k^2], [K].
        rows: the weights of all layers that take the activation, [channels, K].
    """
    x_most, w_most = np.maximum(np.abs(low), np.abs(high)), np.abs(rows).max(axis=0)
    alive = (x_most > 0) & (w_most > 0)
    if not alive.any():
        return None
    best, least = None, MAX_NOISE_RATIO * expected_noise(low, high, power, rows, np.ones_like(low))
    for alpha in ALPHAS:
        scales = np.ones_like(low)
        scales[alive] = x_most[alive] ** alpha / w_most[alive] ** (1 - alpha)
        scales[alive] /= np.exp(np.log(scales[alive]).mean())
        noise = expected_noise(low, high, power, rows, scales)
        if noise < least:
            best, least = scales, noise
    return best


def expected_noise(low: Floats, high: Floats, power: Floats, rows: Floats, scales: Floats) -> float:
    """Return the noise power on the outputs from rounding both operands, with channels divided by `scales`.

    A uniform rounding error has the power step^2 / 12; the activation has one step, each row of
    weights its own.
    """
    step = (max(0.0, float((high / scales).max())) - min(0.0, float((low / scales).min()))) / 255
    scaled = rows * scales
    activation = step**2 * float(np.square(scaled).sum())
    weight_steps = np.abs(scaled).max(axis=1) / 127
    weight = float(np.square(weight_steps).sum()) * float((power / np.square(scales)).sum())
    return (activation + weight) / 12
