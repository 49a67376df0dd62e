"""Uncertainty of a score: bootstrap intervals, and a paired test of two models over the same samples.

Efron and Tibshirani, An Introduction to the Bootstrap (1993): percentile intervals (chapter 13) and the
permutation test for pairs (chapter 15), which is McNemar's test for hits and misses. Fixed seeds make both
reproducible.
"""

from dataclasses import dataclass

import numpy as np

from onnxq.evaluation.scores.score import Score
from onnxq.types import Array

RESAMPLES, RESAMPLES_OF_OBJECTS = 1000, 200
LEVEL = 0.95
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Value:
    """A score with its 95 % confidence interval over samples.

    low, high  ends of the interval
    samples    number of samples that contribute
    drop       difference to the float model, positive if worse: percentage points for accuracy-like metrics,
               otherwise the metric's unit; None for the float model itself
    p_value    share of random swaps of the two models that change the score as much, 0..1; None likewise
    """

    value: float
    low: float
    high: float
    samples: int
    drop: float | None = None
    p_value: float | None = None

    @property
    def significant(self) -> bool:
        """Tell whether the difference to the float model is statistically significant."""
        return self.p_value is not None and self.p_value < SIGNIFICANT


def measure(score: Score, rows: Array, base: Array | None = None) -> Value:
    """Compute a score, and its drop against the float model's contributions for the same samples."""
    low, high = _interval(score, rows)
    value = score.total(rows)
    if base is None:
        return Value(value, low, high, len(rows))
    worse = (score.total(base) - value) * (1 if score.higher else -1) * (100 if score.share else 1)
    return Value(value, low, high, len(rows), worse, _paired(score, rows, base))


def _interval(score: Score, rows: Array) -> tuple[float, float]:
    random = np.random.default_rng(0)
    count = RESAMPLES_OF_OBJECTS if score.objects else RESAMPLES
    values = [score.total(rows[random.integers(len(rows), size=len(rows))]) for _ in range(count)]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _paired(score: Score, rows: Array, base: Array) -> float:
    random = np.random.default_rng(0)
    count = RESAMPLES_OF_OBJECTS if score.objects else RESAMPLES
    found = abs(score.total(rows) - score.total(base))
    as_large = 0
    for _ in range(count):
        swap = random.integers(2, size=len(rows)).astype(bool)
        if rows.ndim == 2:
            swap = swap[:, None]
        as_large += (
            abs(score.total(np.where(swap, base, rows)) - score.total(np.where(swap, rows, base)))
            >= found - 1e-12
        )
    return (1 + as_large) / (1 + count)
