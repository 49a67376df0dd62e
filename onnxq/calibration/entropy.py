"""Entropy: the clip range whose quantized distribution diverges least from the original one.

S. Migacz, "8-bit inference with TensorRT", GTC 2017. The candidates are real thresholds over a fine
histogram, so a clip is found where one helps; with as many bins as levels it could only be min-max.
"""

import numpy as np

from onnxq.calibration.sketch import Distribution, Sketch
from onnxq.types import Array

FINE_BINS = 4096
LEVELS = 256
CANDIDATES = 48


def entropy_range(sketch: Sketch) -> tuple[float, float]:
    """(low, high) with the least Kullback-Leibler divergence; both ends shrink by the same share.

    A two-sided tensor keeps the proportion of its ends; for a one-sided one an end is 0 anyway.
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
    """Counts in FINE_BINS even bins; a bin of the sketch is spread evenly over its width."""
    # zeros stay exact whatever the range: they say nothing about it, and after a ReLU they are most values
    counts = np.where(distribution.centers == 0, 0.0, distribution.counts)
    cumulative = np.concatenate([[0.0], np.cumsum(counts)])
    edges = np.linspace(low, high, FINE_BINS + 1)
    # the bins leave gaps, across which the cumulative count is flat
    positions = np.stack([distribution.lower, distribution.upper], 1).reshape(-1)
    heights = np.stack([cumulative[:-1], cumulative[1:]], 1).reshape(-1)
    at_edges = np.interp(edges, positions, heights)
    at_edges[0], at_edges[-1] = 0.0, cumulative[-1]
    return np.diff(at_edges)


def _divergence(histogram: Array, start: int, stop: int) -> float:
    """KL divergence of the histogram clipped to bins [start, stop) from its 256-level version."""
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
