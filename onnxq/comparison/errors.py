"""Error of a model's outputs against float, part by part and sample by sample."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxq.comparison.metrics import MAX_DB, aligned
from onnxq.comparison.parts import Part
from onnxq.types import Array

PIECE = 1 << 15
"""Values that are compared at a time: in double precision they stay in a core's cache."""


def _square_sum(values: Array) -> float:
    """Return the sum of squares on one core: the threads of `values @ values` cost more than they save."""
    return float(np.einsum("i,i->", values, values))


def decibels(ratio: float) -> float:
    """Return the SQNR in dB of a ratio of noise to signal, between -200 and 200."""
    if not math.isfinite(ratio):
        return -MAX_DB
    return float(np.clip(-10 * math.log10(max(ratio, 1e-30)), -MAX_DB, MAX_DB))


@dataclass(frozen=True)
class PartError:
    """Error of one part.

    sqnr_db   signal / noise over all samples, dB
    bound_db  SQNR expected on new samples, dB
    """

    name: str
    sqnr_db: float
    bound_db: float


class OutputErrors:
    """Signal and noise of each part, sample by sample.

    Signal, noise and number of values are kept by sample, [samples, parts] each. All values of a sample
    count for a part whose shape the sample does not have. Samples of a sequence depend on one another, so a
    sequence counts as one sample in standard errors.

    parts    the parts
    largest  largest absolute difference
    undefined  indices of the values that have NaN in float, which do not count
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        self._rows: list[Array] = []
        self._sequences: list[int] = []
        self.largest = 0.0
        self.undefined: set[int] = set()

    def add(self, expected: Sequence[Array], found: Sequence[Array], *, follows: bool = False) -> Array:
        """Add one sample: the values of the float model, and those of another one.

        Args:
            expected: the observed values of the float model; values that are not float do not count.
            found: those of the other model.
            follows: the sample continues the sequence of the sample before.

        Returns:
            [parts, 3]: signal, noise, and number of values.

        Raises:
            ModelError: two values differ in rank.
        """
        row = np.zeros((len(self.parts), 3))
        given = {part.value: expected[part.value] for part in self.parts}
        self.undefined |= {value for value, array in given.items() if _has_nan(array)}
        pairs: dict[int, tuple[Array, Array] | None] = {}
        for number, part in enumerate(self.parts):
            if part.value not in pairs:
                pairs[part.value] = _comparable(expected[part.value], found[part.value])
            pair = pairs[part.value]
            if pair is not None:
                want, have = (part.of(array) for array in pair)
                row[number] = (
                    self._measured(want, have)
                    if want is not None and have is not None
                    else self._measured(*pair)
                )
        self._rows.append(row)
        self._sequences.append(self._sequences[-1] + (not follows) if self._sequences else 0)
        return row

    def _measured(self, want: Array, have: Array) -> tuple[float, float, float]:
        """Return signal, noise and number of the values that are finite in float.

        The noise is infinite where other values are: infinite in float, and anything else in the other model.
        Values that are NaN in float do not count.
        """
        x, y = want.reshape(-1), have.reshape(-1)
        starts = range(0, max(x.size, 1), PIECE)
        pieces = [self._piece(x[start : start + PIECE], y[start : start + PIECE]) for start in starts]
        signal, noise, count = (sum(each) for each in zip(*pieces, strict=True))
        if math.isinf(noise):  # a signal, too, so that the part counts
            return max(signal, 1.0), noise, float(x.size)
        return signal, noise, count

    def _piece(self, want: Array, have: Array) -> tuple[float, float, float]:
        x, y = want.astype(np.float64), have
        signal = _square_sum(x)
        if not math.isfinite(signal):
            finite = np.isfinite(x)
            if not np.array_equal(x[np.isinf(x)], y[np.isinf(x)]):
                return float(np.square(x[finite]).sum()), math.inf, float(x.size)
            x, y = x[finite], y[finite]
            signal = _square_sum(x)
        difference = y - x
        largest = difference.max(initial=0.0), -difference.min(initial=0.0)
        self.largest = max(self.largest, *map(float, largest))
        return signal, _square_sum(difference), float(x.size)

    @property
    def samples(self) -> int:
        """Number of samples added."""
        return len(self._rows)

    def some(self, rows: Sequence[int]) -> "OutputErrors":
        """Return the errors of some samples alone, by index."""
        result = OutputErrors(self.parts)
        result._rows = [self._rows[row] for row in rows]
        result._sequences = [self._sequences[row] for row in rows]
        return result

    def capped(self, share: float) -> "OutputErrors":
        """Return errors in which this share of the samples cannot dominate the noise of scores.

        The noise of the worst samples is cut to that of the next one: in one photograph of fifty a detector's
        scores jump at any rounding, whatever is quantized.
        """
        count, rows = int(share * self.samples), self._table().copy()
        if count == 0 or not np.isfinite(rows).all():
            return self
        for number, part in enumerate(self.parts):
            if part.least > 0:
                rows[:, number, 1] = np.minimum(rows[:, number, 1], np.sort(rows[:, number, 1])[-count - 1])
        result = OutputErrors(self.parts)
        result._rows, result._sequences = list(rows), self._sequences
        return result

    def _table(self) -> Array:
        """Return all figures, [samples, parts, 3]."""
        return np.array(self._rows).reshape(self.samples, len(self.parts), 3)

    def powers(self) -> tuple[Array, Array]:
        """Return signal and noise of each sample and part, [samples, parts] each."""
        rows = self._table()
        return rows[..., 0], rows[..., 1]

    def signals(self) -> Array:
        """Return the signal of each part over all samples, [parts]: at least its floor, or 0."""
        rows = self._table()
        signal, values = rows[..., 0].sum(0), rows[..., 2].sum(0)
        seen = (rows[..., 2] > 0).sum(0)
        floor = np.array(
            [
                max(part.floor * n, part.least * count)
                for part, n, count in zip(self.parts, values, seen, strict=True)
            ]
        )
        return np.where(signal > 0, np.maximum(signal, floor), 0.0)

    def shares(self) -> Array:
        """Return each sample's noise over the part's signal of all samples, [samples, parts].

        They add up to `ratios`. A part without a signal has 0.
        """
        _, noise = self.powers()
        signals = self.signals()
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(signals > 0, noise / np.where(signals > 0, signals, 1.0), 0.0))

    def ratios(self) -> Array:
        """Return noise / signal of each part over all samples, [parts]; infinite where it is not a number."""
        ratios = self.shares().sum(0)
        return np.where(np.isfinite(ratios), ratios, np.inf)

    def signal_per_value(self) -> Array:
        """Return the mean signal of one value of each part, [parts]; 0 for a part without a signal."""
        values = self._table()[..., 2].sum(0)
        return np.asarray(self.signals() / np.maximum(values, 1.0))

    def ratios_to(self, per_value: Array) -> Array:
        """Return noise / signal of each part, [parts], for a signal that is known from more samples.

        Args:
            per_value: mean signal of one value of each part, [parts].
        """
        rows = self._table()
        signals = per_value * rows[..., 2].sum(0)
        with np.errstate(invalid="ignore"):
            ratios = np.where(signals > 0, rows[..., 1].sum(0) / np.where(signals > 0, signals, 1.0), 0.0)
        return np.where(np.isfinite(ratios), ratios, np.inf)

    def by_sequence(self) -> tuple[Array, Array]:
        """Return signal and noise of each independent sample and part, [independent, parts] each."""
        _, place = np.unique(self._sequences, return_inverse=True)
        rows = np.zeros((self.independent, len(self.parts), 3))
        np.add.at(rows, place, self._table())
        return rows[..., 0], rows[..., 1]

    def standard_errors(self) -> Array:
        """Return the standard error of each part's ratio, [parts].

        The ratio of sums is taken as linear (Cochran, Sampling Techniques, 6.4).
        """
        count = self.independent
        if count < 2:
            return np.zeros(len(self.parts))
        signal, _ = self.powers()
        signals = self.signals()
        ratios = self.ratios()
        with np.errstate(invalid="ignore"):
            deviations = self.shares() - ratios * signal / np.where(signals > 0, signals, 1.0)
            # a floor in place of the signal is a constant
            floored = signals > signal.sum(0) * (1 + 1e-9)
            deviations = np.where(floored, self.shares() - ratios / self.samples, deviations)
        _, place = np.unique(self._sequences, return_inverse=True)
        together = np.zeros((count, len(self.parts)))
        np.add.at(together, place, deviations)
        errors = np.sqrt(count / (count - 1) * np.square(together).sum(0))
        return np.where(np.isfinite(errors), errors, 0.0)

    @property
    def independent(self) -> int:
        """Number of independent samples: a sequence counts as one."""
        return len(set(self._sequences))

    @property
    def measured(self) -> list[int]:
        """Indices of the parts that have a signal."""
        return [int(i) for i in np.flatnonzero(self.signals() > 0)] if self.samples else []

    @property
    def faint(self) -> list[int]:
        """Indices of the parts with a signal whose values are so small that their floor replaces it."""
        rows = self._table().sum(0)
        return [i for i in self.measured if rows[i, 0] < self.parts[i].floor * rows[i, 2]]

    def worst_db(self) -> float | None:
        """Return the SQNR of the worst part, dB; None where nothing could be compared."""
        return min((decibels(self.ratios()[i]) for i in self.measured), default=None)

    def sample_db(self) -> list[float | None]:
        """Return the SQNR of each sample's own worst part, dB; None where it has no signal.

        The signal is the larger of the part's mean signal and the sample's own.
        """
        signal, noise = self.powers()
        mean = self.signals() / max(1, self.samples)
        own = np.maximum(signal, mean)
        return [
            min(
                (decibels(float(noise[row, i] / own[row, i])) for i in self.measured if own[row, i] > 0),
                default=None,
            )
            for row in range(self.samples)
        ]

    def heaviest(self, part: int) -> list[tuple[int, float]]:
        """Return (sample, share of the part's noise) of all samples, largest share first."""
        noise = self.powers()[1][:, part]
        total = noise.sum()
        if not np.isfinite(total) or total <= 0:
            return []
        return [(int(i), float(noise[i] / total)) for i in np.argsort(-noise, kind="stable")]


def _has_nan(value: object) -> bool:
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return False
    with np.errstate(invalid="ignore", over="ignore"):
        sum_ = value.sum()  # without an array of flags
    return bool(np.isnan(sum_) and np.isnan(value).any())


def _comparable(want: object, have: object) -> tuple[Array, Array] | None:
    """Return both values in one shape, or None where either is not float."""
    if not isinstance(want, np.ndarray) or not np.issubdtype(want.dtype, np.floating):
        return None
    other = np.asarray(have)
    return aligned(want, other) if np.issubdtype(other.dtype, np.floating) else None
