"""The fit of a table of costs to measured kernel times."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from onnxq.cost.model import Work
from onnxq.cost.target_file import Table
from onnxq.types import Array

DIGITS = 3
"""Significant digits of a cost."""
REWEIGHTED, DOUBTED = 5, 0.1
"""Number of fits that count rows of a larger relative error less, and the error from which they do."""
LEAST_NS = 1.0
"""Nanoseconds that any kernel takes."""


class Row(NamedTuple):
    """Time of one kernel: its form and kind in the table, its sizes, and nanoseconds."""

    name: str
    work: Work
    ns: float


@dataclass(frozen=True)
class RowFit:
    """How well a row of the table describes the kernels that it was fitted to.

    kernels  number of kernels
    median   median relative error
    high     relative error that 90 % of the kernels do not exceed
    """

    name: str
    kernels: int
    median: float
    high: float


def fit(rows: Iterable[Row]) -> tuple[Table, list[RowFit]]:
    """Fit non-negative costs to the rows of each name, so that relative errors are small."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.name, []).append(row)
    table: Table = {}
    quality = []
    for name, members in sorted(groups.items()):
        features = np.array([row.work.features() for row in members])
        # a kernel may seem to take no time, once the overhead of its measurement is off
        times = np.maximum([row.ns for row in members], LEAST_NS)
        costs = _costs(features / times[:, None])
        table[name] = tuple(float(f"{cost:.{DIGITS}g}") for cost in costs)
        errors = np.abs(features @ np.array(table[name]) / times - 1)
        quality.append(RowFit(name, len(members), float(np.median(errors)), float(np.quantile(errors, 0.9))))
    return table, quality


def _costs(relative: Array) -> Array:
    """Return non-negative x that brings `relative @ x` close to 1; outliers count less (Huber's weights)."""
    size = np.maximum(relative.max(axis=0), 1e-30)
    scaled, weights = relative / size, np.ones(len(relative))
    costs = np.zeros(relative.shape[1])
    for _ in range(REWEIGHTED):
        root = np.sqrt(weights)
        costs = non_negative_least_squares(scaled * root[:, None], root)
        errors = np.abs(scaled @ costs - 1)
        weights = np.minimum(1.0, DOUBTED / np.maximum(errors, 1e-12))
    return np.asarray(costs / size)


def non_negative_least_squares(a: Array, b: Array) -> Array:
    """Minimize |a x - b| over x >= 0 by the active set method.

    C. L. Lawson and R. J. Hanson, "Solving Least Squares Problems", 1974, chapter 23.

    Args:
        a: [rows, columns].
        b: [rows].
    """
    x, free = np.zeros(a.shape[1]), np.zeros(a.shape[1], bool)
    for _ in range(10 * a.shape[1]):
        gain = a.T @ (b - a @ x)
        gain[free] = -np.inf
        best = int(gain.argmax())
        if free.all() or gain[best] <= 1e-9 * max(1.0, float(np.abs(b).sum())):
            break
        free[best] = True
        while free.any():
            trial = np.zeros_like(x)
            trial[free] = np.linalg.lstsq(a[:, free], b, rcond=1e-9)[0]
            below = free & (trial <= 0)
            if not below.any():
                x = trial
                break
            # go as far as the first cost that becomes 0, which is then fixed
            step = (x[below] / np.maximum(x[below] - trial[below], 1e-30)).min()
            x = x + step * (trial - x)
            free &= x > 1e-12
            x[~free] = 0.0
    return x
