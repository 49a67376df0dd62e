"""Expected share of a model's decisions that quantization changes: margins against noise.

A decision is the index of the largest score. Only few decisions of few samples change, so a count of
them says little: the better of two files may only be luckier. The probability that noise of a given size
exceeds the float model's margins is smooth, and uses every sample.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from onnxq.types import Array

MAX_DECISIONS = 4096
"""Most decisions of one sample, evenly spaced."""


@dataclass
class Decisions:
    """Decisions for the largest value along an axis, added sample by sample.

    margins  float model's largest score minus its second, an array per sample
    moved    change of this difference in the other model, likewise
    changed  number of decisions with another result
    broken   number of decisions in which the other model has a NaN; neither list holds them
    """

    axis: int
    margins: list[Array] = field(default_factory=list)
    moved: list[Array] = field(default_factory=list)
    changed: int = 0
    broken: int = 0

    def add(self, want: Array, have: Array) -> None:
        """Add the scores of one sample.

        Values of different shapes, or with one score along the axis, are no decisions.
        """
        if not -want.ndim <= self.axis < want.ndim or want.shape != have.shape or want.shape[self.axis] < 2:
            return
        scores = [np.moveaxis(array, self.axis, -1) for array in (want, have)]
        places = scores[0].shape[:-1]
        count = math.prod(places)
        at = np.arange(count)
        if count > MAX_DECISIONS:
            at = np.linspace(0, count - 1, MAX_DECISIONS).round().astype(int)
        chosen = np.unravel_index(at, places) if places else ()
        rows, others = (array[chosen].reshape(len(at), -1).astype(np.float64) for array in scores)
        best = rows.argmax(1)
        each = np.arange(len(rows))
        rest = rows.copy()
        rest[each, best] = -np.inf
        second = rest.argmax(1)
        broken = np.isnan(others).any(1)
        with np.errstate(invalid="ignore"):
            margins = np.where(best == second, np.inf, rows[each, best] - rows[each, second])
            moved = others[each, best] - others[each, second] - margins
        self.margins.append(margins[~broken])
        self.moved.append(moved[~broken])
        self.broken += int(broken.sum())
        self.changed += int(np.count_nonzero((others.argmax(1) != best) | broken))

    @property
    def count(self) -> int:
        """Number of decisions added."""
        return sum(map(len, self.margins)) + self.broken

    def expected(self) -> float:
        """Return the share of decisions that noise of this size is expected to change, 0..1.

        It is the mean probability that Gaussian noise, of the root mean square seen here, exceeds the margin.
        """
        if not self.count:
            return 0.0
        margins, moved = np.concatenate(self.margins), np.concatenate(self.moved)
        # without a finite second score a decision does not change
        known = np.isfinite(margins) & np.isfinite(moved)
        noise = math.sqrt(float(np.mean(np.square(moved[known])))) if known.any() else 0.0
        changing = (
            sum(0.5 * math.erfc(margin / noise / math.sqrt(2)) for margin in margins[known])
            if noise > 0
            else 0.0
        )
        return (changing + self.broken) / self.count
