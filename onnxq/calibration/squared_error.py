"""Expected squared error of quantizing a distribution to a clipping range."""

import numpy as np

from onnxq.calibration.sketch import Distribution
from onnxq.types import Array


class ClipError:
    """Squared error of many candidate ranges at once, from cumulative sums over the sketch's bins.

    A value inside the range has a uniform rounding error, of power step^2 / 12. Near 0, which is exact,
    its error is at most the value itself. A value outside is off by its distance from the range.
    """

    def __init__(self, distribution: Distribution, steps: int = 255) -> None:
        self.values = distribution.centers
        self.steps = steps
        counts = distribution.counts
        self._sums = [np.concatenate([[0.0], np.cumsum(counts * self.values**power)]) for power in range(3)]

    def _moment(self, power: int, start: Array, stop: Array) -> Array:
        sums: Array = self._sums[power]
        return np.asarray(sums[stop] - sums[start])

    def __call__(self, low: Array, high: Array) -> Array:
        """Return the summed squared error of each pair (low <= 0 <= high); arrays of one shape."""
        step = (high - low) / self.steps
        end = np.full(low.shape, len(self.values))
        first, last = np.searchsorted(self.values, low), np.searchsorted(self.values, high)
        near_low, near_high = (np.searchsorted(self.values, sign * step / 2) for sign in (-1, 1))
        near_low, near_high = np.clip(near_low, first, last), np.clip(near_high, first, last)
        start = np.zeros_like(end)
        below = (
            low**2 * self._moment(0, start, first)
            - 2 * low * self._moment(1, start, first)
            + self._moment(2, start, first)
        )
        above = (
            high**2 * self._moment(0, last, end)
            - 2 * high * self._moment(1, last, end)
            + self._moment(2, last, end)
        )
        inside = self._moment(0, first, last) - self._moment(0, near_low, near_high)
        return np.asarray(
            np.maximum(below, 0)
            + np.maximum(above, 0)
            + inside * step**2 / 12
            + self._moment(2, near_low, near_high)
        )
