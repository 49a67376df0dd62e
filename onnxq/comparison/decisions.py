"""How many decisions a model's noise is expected to change: margins of the float model against the noise on them.

Few decisions of few samples change, so counting them says little: of two files one is often only luckier. How often noise of
a given size is larger than the float model's margins is smooth, and uses every sample.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from onnxq.types import Array

MOST = 4096
"""Decisions of one sample that are looked at, evenly spaced."""


@dataclass
class Decisions:
    """Decisions for the largest value along an axis, added sample by sample."""

    axis: int
    margins: list[Array] = field(default_factory=list)
    moved: list[Array] = field(default_factory=list)
    changed: int = 0
    broken: int = 0

    def add(self, want: Array, have: Array) -> None:
        """Add the scores of one sample; what has one score or another shape decides nothing."""
        if not -want.ndim <= self.axis < want.ndim or want.shape != have.shape or want.shape[self.axis] < 2:
            return
        rows, others = (
            np.moveaxis(array, self.axis, -1).reshape(-1, array.shape[self.axis]).astype(np.float64)
            for array in (want, have)
        )
        if len(rows) > MOST:
            at = np.linspace(0, len(rows) - 1, MOST).round().astype(int)
            rows, others = rows[at], others[at]
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
        """Decisions that were added."""
        return sum(map(len, self.margins)) + self.broken

    def expected(self) -> float:
        """Share of decisions that noise of this size is expected to change, 0..1: the mean probability that it exceeds the margin."""
        if not self.count:
            return 0.0
        margins, moved = np.concatenate(self.margins), np.concatenate(self.moved)
        known = np.isfinite(margins) & np.isfinite(moved)  # what nothing competes with does not change
        noise = math.sqrt(float(np.mean(np.square(moved[known])))) if known.any() else 0.0
        changing = (
            sum(0.5 * math.erfc(margin / noise / math.sqrt(2)) for margin in margins[known])
            if noise > 0
            else 0.0
        )
        return (changing + self.broken) / self.count
