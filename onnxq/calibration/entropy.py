"""Entropy: the clipping range whose quantized distribution diverges least from the original one.

S. Migacz, "8-bit inference with TensorRT", GTC 2017. The candidate thresholds are bounds of a
histogram finer than the 256 levels. With as many bins as levels, only min-max would be possible.
"""

import numpy as np

from onnxq.calibration.sketch import Distribution, Sketch
from onnxq.types import Array

FINE_BINS = 4096
LEVELS = 256
SHARES = np.geomspace(1, LEVELS / FINE_BINS, 48)
"""Candidates: shares of the whole range."""
LEAST = 1e-12
"""Least probability of a bin in the quantized version: a clipped end may lie where nothing is kept."""


def entropy_range(sketch: Sketch) -> tuple[float, float]:
    """Return the (low, high) of least Kullback-Leibler divergence; both ends shrink by the same factor.

    A two-sided tensor keeps the proportion of its ends; a one-sided tensor has one end at 0 anyway.
    """
    low, high = min(sketch.minimum, 0.0), max(sketch.maximum, 0.0)
    if high <= low:
        return low, high
    histogram = _linear_histogram(sketch.distribution(), low, high)
    zero = round(-low / (high - low) * FINE_BINS)
    starts, stops = np.rint(zero * (1 - SHARES)), np.rint(zero + (FINE_BINS - zero) * SHARES)
    best = SHARES[int(np.argmin(_divergences(histogram, starts.astype(int), stops.astype(int))))]
    return float(low * best), float(high * best)


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


def _divergences(histogram: Array, starts: Array, stops: Array) -> Array:
    """Return the KL divergence of the histogram clipped to each [start, stop) from its 256-level version.

    All bins of a level have one probability in that version, so sums over levels suffice: differences of
    cumulative sums.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        sums, filled, entropies = (
            np.concatenate([[0.0], np.cumsum(each)])
            for each in (histogram, histogram > 0, _times_log(histogram))
        )
        total, within = sums[-1], sums[stops] - sums[starts]
        sizes = (stops - starts)[:, None]
        # [ranges, levels + 1], rounded up
        edges = starts[:, None] - (-np.arange(LEVELS + 1) * sizes) // LEVELS
        counts, widths = np.diff(sums[edges]), np.diff(filled[edges])
        counts = np.where(widths > 0, np.maximum(counts, 0.0), 0.0)
        level = np.maximum(counts / np.maximum(widths, 1) / within[:, None], LEAST)
        # what is clipped counts in the first and the last bin, perhaps where no kept value lies
        firsts, lasts = histogram[starts], histogram[stops - 1]
        below, above = sums[starts], total - sums[stops]
        own = entropies[stops] - entropies[starts]
        for kept, clipped in ((firsts, below), (lasts, above)):
            own += _times_log(kept + clipped) - _times_log(kept)
        other = (counts * np.log(level)).sum(axis=1)
        other += below * np.log(np.where(firsts > 0, level[:, 0], LEAST))
        other += above * np.log(np.where(lasts > 0, level[:, -1], LEAST))
        divergences = (own - other) / total - np.log(total)
    return np.where((stops - starts >= LEVELS) & (within > 0), divergences, np.inf)


def _times_log(values: Array) -> Array:
    """Return x log x, 0 for 0."""
    return np.asarray(values * np.log(np.where(values > 0, values, 1.0)))
