"""The error of a model's outputs against float, part by part, and what it says of samples that nobody has seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxq.comparison.metrics import MAX_DB, aligned
from onnxq.comparison.parts import Part
from onnxq.types import Array

NORMAL = 1.645
"""Standard errors of the noise ratio by which fresh samples may be worse (one-sided 95 %), more where samples are few, ..."""
LEAST_SPARE_DB, USUAL = 1.5, 200
"""... and dB by which they may be all the same, of the usual number of samples: the tail is not in the sample (docs/results.md)."""
CHOOSING_SPARE_DB = 1.0
"""The same while files are still chosen: what is measured then is held against a target, not promised."""


def decibels(ratio: float) -> float:
    """The SQNR in dB of a ratio of noise to signal, between -200 and 200."""
    if not math.isfinite(ratio):
        return -MAX_DB
    return float(np.clip(-10 * math.log10(max(ratio, 1e-30)), -MAX_DB, MAX_DB))


@dataclass(frozen=True)
class PartError:
    """What was found of one part.

    sqnr_db   signal / noise over all samples, dB
    bound_db  what fresh samples are expected to keep, dB
    """

    name: str
    sqnr_db: float
    bound_db: float


class OutputErrors:
    """Signal and noise of each part, sample by sample.

    Each sample's own figures are kept, [samples, parts] of each. Where a sample has another shape than a part is made for, all
    of its values count. Samples of a sequence hang on one another: they count as one where chance is estimated.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        self._rows: list[Array] = []
        self._sequences: list[int] = []
        self.largest = 0.0

    def add(self, expected: Sequence[Array], found: Sequence[Array], *, follows: bool = False) -> Array:
        """Add one sample's observed values, those of the float model and another's; what is no float does not count.

        `follows` says that it goes on with the sequence of the sample before.

        Returns:
            [parts, 3]: signal, noise, and number of values.

        Raises:
            ModelError: two values differ in rank.
        """
        row = np.zeros((len(self.parts), 3))
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
        x, y = want.astype(np.float64).ravel(), have.astype(np.float64).ravel()
        finite = np.isfinite(x)
        if not finite.all():
            x, y = x[finite], y[finite]
        difference = y - x
        self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))
        signal = float(x @ x)
        return signal, float(difference @ difference), float(x.size)

    @property
    def samples(self) -> int:
        """How many were added."""
        return len(self._rows)

    def some(self, rows: Sequence[int]) -> "OutputErrors":
        """The same of some samples alone."""
        result = OutputErrors(self.parts)
        result._rows = [self._rows[row] for row in rows]
        result._sequences = [self._sequences[row] for row in rows]
        return result

    def _table(self) -> Array:
        return np.array(self._rows).reshape(self.samples, len(self.parts), 3)

    def powers(self) -> tuple[Array, Array]:
        """Signal and noise of each sample and part, [samples, parts] each."""
        rows = self._table()
        return rows[..., 0], rows[..., 1]

    def signals(self) -> Array:
        """Signal of each part over all samples, at least its floor; 0 where there is none, [parts]."""
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
        """What each sample adds to the ratio of noise to signal of each part, [samples, parts]; 0 where a part has no signal."""
        _, noise = self.powers()
        signals = self.signals()
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(signals > 0, noise / np.where(signals > 0, signals, 1.0), 0.0))

    def ratios(self) -> Array:
        """Noise / signal of each part over all samples, [parts]; infinite where it is no number."""
        ratios = self.shares().sum(0)
        return np.where(np.isfinite(ratios), ratios, np.inf)

    def standard_errors(self) -> Array:
        """Of each part's ratio, [parts], by the linear approximation of a ratio of sums (Cochran, Sampling Techniques, 6.4)."""
        count = self.independent
        if count < 2:
            return np.zeros(len(self.parts))
        signal, _ = self.powers()
        signals = self.signals()
        ratios = self.ratios()
        with np.errstate(invalid="ignore"):
            deviations = self.shares() - ratios * signal / np.where(signals > 0, signals, 1.0)
            # a floor that stands for the signal does not vary
            floored = signals > signal.sum(0) * (1 + 1e-9)
            deviations = np.where(floored, self.shares() - ratios / self.samples, deviations)
        _, place = np.unique(self._sequences, return_inverse=True)
        together = np.zeros((count, len(self.parts)))
        np.add.at(together, place, deviations)
        errors = np.sqrt(count / (count - 1) * np.square(together).sum(0))
        return np.where(np.isfinite(errors), errors, 0.0)

    @property
    def independent(self) -> int:
        """Samples that do not hang on one another: sequences count as one each."""
        return len(set(self._sequences))

    @property
    def measured(self) -> list[int]:
        """Parts that have a signal."""
        return [int(i) for i in np.flatnonzero(self.signals() > 0)] if self.samples else []

    def worst_db(self) -> float | None:
        """SQNR of the worst part, dB; None where nothing could be compared."""
        return min((decibels(self.ratios()[i]) for i in self.measured), default=None)

    def sample_db(self) -> list[float | None]:
        """SQNR of each sample's own worst part, dB, against the part's mean signal or its own, whichever is larger."""
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
        """Samples by their share of a part's noise, largest first: (sample, share)."""
        noise = self.powers()[1][:, part]
        total = noise.sum()
        if not np.isfinite(total) or total <= 0:
            return []
        return [(int(i), float(noise[i] / total)) for i in np.argsort(-noise, kind="stable")]


def bounds(everything: OutputErrors, fresh: OutputErrors | None = None, *, of: int = 0) -> Array:
    """The ratio of noise to signal of each part that fresh samples are expected to keep, [parts].

    The largest of three: on samples that nothing was made from or chosen on; on all samples with some standard errors more, for
    the tail of few samples is not in them; and some dB more than on all samples, the more the fewer they are. Where these are a
    part of the evidence, `of` says how many samples there are in all: what is expected of the bound then.
    """
    ratios = everything.ratios()
    spare = NORMAL + 1.52 / max(1, everything.independent - 1)  # Student's t, by its expansion
    spare *= math.sqrt(min(1.0, everything.samples / max(1, of, everything.samples)))
    least_db = (
        CHOOSING_SPARE_DB if of else LEAST_SPARE_DB * math.sqrt(max(1.0, USUAL / max(1, everything.samples)))
    )
    spared = np.maximum(ratios + spare * everything.standard_errors(), ratios * 10 ** (least_db / 10))
    return np.maximum(spared, fresh.ratios()) if fresh is not None and fresh.samples else spared


def _comparable(want: object, have: object) -> tuple[Array, Array] | None:
    if not isinstance(want, np.ndarray) or not np.issubdtype(want.dtype, np.floating):
        return None
    other = np.asarray(have)
    return aligned(want, other) if np.issubdtype(other.dtype, np.floating) else None
