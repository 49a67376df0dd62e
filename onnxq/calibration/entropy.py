"""Entropy: the clipping range whose quantized distribution diverges least from the original one.

S. Migacz, "8-bit inference with TensorRT", GTC 2017. The candidate thresholds are bounds of a
histogram finer than the 256 levels. With as many bins as levels, only min-max would be possible.
"""

import numpy as np

from onnxq.calibration.sketch import Distribution, Sketch
from onnxq.types import Array

FINE_BINS = 4096
LEVELS = 256
CANDIDATES = 48


def entropy_range(sketch: Sketch) -> tuple[float, float]:
    """Return the (low, high) of least Kullback-Leibler divergence; both ends shrink by the same factor.

    A two-sided tensor keeps the proportion of its ends; a one-sided tensor has one end at 0 anyway.
    """
    low, high = min(sketch.minimum, 0.0), max(sketch.maximum, 0.0)
    if high <= low:
        return low, high
    histogram = _linear_histogram(sketch.distribution(), low, high)
    zero = round(-low / (high - low) * FINE_BINS)
    best, best_divergence = (low, high), np.inf
    for share in np.geomspace(1, LEVELS / FINE_BINS, CANDIDATES):
        start, stop = round(zero * (1 - share)), round(zero + (FINE_BINS - zero) * share)
        divergence = _divergence(histogram, start, stop)
        if divergence < best_divergence:
            best, best_divergence = (low * share, high * share), divergence
    return float(best[0]), float(best[1])


def _linear_histogram(distribution: Distribution, low: float, high: float) -> Array:
    """Return counts in FINE_BINS even bins; a bin of the sketch is spread evenly over its width."""
    # zeros are exact in any range, so they do not count: after a ReLU they are most of the values
    counts = np.where(distribution.centers == 0, 0.0, distribution.counts)
    cumulative = np.concatenate([[0.0], np.cumsum(counts)])
    edges = np.linspace(low, high, FINE_BINS + 1)
    # the cumulative count is flat across the gaps between bins
    positions = np.stack([distribution.lower, distribution.upper], 1).reshape(-1)
    heights = np.stack([cumulative[:-1], cumulative[1:]], 1).reshape(-1)
    at_edges = np.interp(edges, positions, heights)
    at_edges[0], at_edges[-1] = 0.0, cumulative[-1]
    return np.diff(at_edges)


def _divergence(histogram: Array, start: int, stop: int) -> float:
    """Return the KL divergence of the histogram clipped to [start, stop) from its 256-level version."""
    kept = histogram[start:stop]
    if stop - start < LEVELS or kept.sum() <= 0:
        return np.inf
    clipped = kept.copy()
    clipped[0] += histogram[:start].sum()
    clipped[-1] += histogram[stop:].sum()
    levels = (np.arange(stop - start) * LEVELS) // (stop - start)
    filled = kept > 0
    sums = np.bincount(levels, kept, LEVELS)
    widths = np.bincount(levels, filled, LEVELS)
    spread = np.where(filled, (sums / np.maximum(widths, 1))[levels], 0.0)
    p, q = clipped / clipped.sum(), spread / spread.sum()
    q = np.maximum(q, 1e-12)  # a clipped end may hold counts where no kept value lies
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / q[used])))
