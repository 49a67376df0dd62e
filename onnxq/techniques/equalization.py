"""Equalization: bring the channels of an activation to similar ranges, by moving factors between layers.

M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, for
f(s x) = s f(x): W2 f(W1 x) = (W2 s) f(s^-1 W1 x). The paper chooses s from W1 and W2. Here W1 has a scale
per output channel and loses nothing by a factor, so s depends on the measured activation and on W2, as
in smoothing.
"""

import numpy as np

from onnxq.types import Floats

ALPHAS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
MAX_NOISE_RATIO = 0.9
"""Equalization is used where it brings the noise below this share; it costs nothing at run time."""


def equalizing_scales(
    low: Floats, high: Floats, power: Floats, rows: Floats, depthwise: Floats
) -> Floats | None:
    """Return divisors s [C] for the channels of an activation, or None where they gain too little.

    Args:
        low: least value of each channel, [C] or [tensors, C]; further tensors are the activation in front
            of a pool or LeakyRelu, where it is quantized there too.
        high: largest value of each channel, likewise.
        power: E[x_c^2], [C].
        rows: weights of the layers that mix channels, [rows, C].
        depthwise: weights of depthwise layers, [rows, C]; each channel has its own scale there.
    """
    low, high = np.atleast_2d(low), np.atleast_2d(high)
    x_most = np.maximum(np.abs(low), np.abs(high)).max(axis=0)
    taken = np.concatenate([rows, depthwise])
    w_most = np.abs(taken).max(axis=0)
    alive = (x_most > 0) & (w_most > 0)
    if alive.sum() < 2:
        return None
    ones = np.ones_like(w_most)
    best, least = None, MAX_NOISE_RATIO * _noise(low, high, power, rows, taken, ones)
    for alpha in ALPHAS:
        scales = ones.copy()
        scales[alive] = x_most[alive] ** alpha / w_most[alive] ** (1 - alpha)
        scales[alive] /= np.exp(np.log(scales[alive]).mean())
        noise = _noise(low, high, power, rows, taken, scales)
        if noise < least:
            best, least = scales, noise
    return best


def _noise(low: Floats, high: Floats, power: Floats, rows: Floats, taken: Floats, scales: Floats) -> float:
    """Return the noise power on the outputs from rounding activations [tensors, C] and mixing weights."""
    steps = ((high / scales).max(axis=1, initial=0.0) - (low / scales).min(axis=1, initial=0.0)) / 255
    activation = float(np.square(steps).sum() * np.square(taken * scales).sum())
    weight_steps = np.abs(rows * scales).max(axis=1, initial=0.0) / 127
    return (activation + float(np.square(weight_steps).sum()) * float((power / np.square(scales)).sum())) / 12
