"""Sketch of a tensor's values: a histogram of fixed size that needs no range beforehand.

The bin of a value is the upper half of its float32 bits: sign, 8 bits of exponent, 7 bits of mantissa,
as in a truncated bfloat16. So there are 65,536 bins, spaced logarithmically, with a relative width of
2^-7, for any range of values. Two sketches merge by adding their counts. Beside the counts a sketch
keeps exact numbers: minimum, maximum, number of values, and the exponential moving average of each
batch's range.

`measure` reads one batch, and may run in several threads. `Sketch` adds up batches, in their order.
`Distribution` is a sketch's histogram in ascending order, from which methods choose ranges.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxq.types import Array

BINS = 1 << 16
DECAY = 0.99
"""Weight of the past in the moving average of ranges, per batch."""
RECENT = 4096
"""Latest ranges that are kept: older ones have no weight in float64."""
NO_BINS = np.zeros(0, np.uint16)


def _bin_edges() -> tuple[Array, Array, Array]:
    """Return the finite bins in ascending order of value, with the lower and upper edge of each.

    Bin numbers are bit patterns: 0 to 0x7F7F are positive values in ascending order, and 0x8000 upwards
    are negative ones in descending order.
    """
    positive = np.arange(0x7F80, dtype=np.uint32)
    low = (positive << 16).view(np.float32).astype(np.float64)
    high = np.append(low[1:], np.float64(2.0**128))
    high[0] = 0.0  # zero, and denormal numbers, which count as zero
    order = np.concatenate([(positive + 0x8000)[::-1], positive])
    return order, np.concatenate([-high[::-1], low]), np.concatenate([-low[::-1], high])


ORDER, LOWER, UPPER = _bin_edges()


@dataclass(frozen=True)
class Measured:
    """One batch of one tensor: exact range and size, and the bin numbers of the counted values."""

    low: float
    high: float
    size: int
    bins: Array

    def without_bins(self) -> "Measured":
        """Return the exact numbers alone."""
        return replace(self, bins=NO_BINS)


def measure(values: Array, *, stride: int = 1, offset: int = 0) -> Measured | None:
    """Measure float32 values of any shape; None where there are none.

    Args:
        values: the batch. NaN and infinite values show in `low` and `high`.
        stride: every `stride`-th value is counted; the range is that of all values.
        offset: start of the counted values, modulo `stride`.
    """
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    if flat.size == 0:
        return None
    upper_halves = flat.view(np.uint16)[1::2][offset % stride :: stride].copy()
    return Measured(float(flat.min()), float(flat.max()), flat.size, upper_halves)


@dataclass(frozen=True)
class Histogram:
    """Counts of some bins.

    bins    bin numbers, ascending, uint16
    counts  number of values in each
    """

    bins: Array
    counts: Array

    @staticmethod
    def of(bins: Sequence[Array]) -> "Histogram":
        """Count values by their bin numbers, with counts in the smallest type that holds them."""
        found = np.bincount(np.concatenate(bins), minlength=BINS)
        (filled,) = np.nonzero(found != 0)  # of booleans it is several times faster
        counts = found[filled]
        return Histogram(filled.astype(np.uint16), counts.astype(np.min_scalar_type(counts.max(initial=0))))


@dataclass
class Sketch:
    """Statistics of one tensor over all samples seen.

    binned     [65536] int64 counts, of a part of the values where a tensor is large; read `counts`
    minimum, maximum  of all values, exact
    seen       number of all values
    ema_minimum, ema_maximum  moving averages that start at 0, before bias correction
    batches    number of batches in them
    recent     low and high of the latest batches, one behind the other: at least `RECENT` batches, if there
               are so many, and at most twice as many
    _pending   bin numbers that wait to be counted, `_waiting` values in all
    """

    binned: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))
    minimum: float = np.inf
    maximum: float = -np.inf
    seen: int = 0
    ema_minimum: float = 0.0
    ema_maximum: float = 0.0
    batches: int = 0
    recent: "array[float]" = field(default_factory=lambda: array("d"))
    _pending: list[Array] = field(default_factory=list)
    _waiting: int = 0

    @property
    def counts(self) -> Array:
        """Number of values in each bin, [65536] int64."""
        if self._pending:
            found = np.bincount(np.concatenate(self._pending), minlength=BINS)
            (filled,) = np.nonzero(found != 0)  # of booleans it is several times faster
            self.binned[filled] += found[filled]  # memory pages of empty bins are never touched
            self._pending, self._waiting = [], 0
        return self.binned

    def add_counts(self, histogram: Histogram) -> None:
        """Add the counts of a histogram."""
        self.binned[histogram.bins] += histogram.counts

    def count(self, bins: Array, most: int = BINS) -> None:
        """Count values by bin number; up to `most` of them wait, because counting many at once is cheap."""
        self._pending.append(bins)
        self._waiting += bins.size
        if self._waiting >= most:
            _ = self.counts

    def add_range(self, measured: Measured) -> None:
        """Add the exact numbers of a batch and its moving average; batches come in their order."""
        self.minimum, self.maximum = min(self.minimum, measured.low), max(self.maximum, measured.high)
        self.seen += measured.size
        self._follow(measured.low, measured.high)

    def _follow(self, low: float, high: float) -> None:
        """Add the range of one batch to the moving averages."""
        self.ema_minimum = DECAY * self.ema_minimum + (1 - DECAY) * low
        self.ema_maximum = DECAY * self.ema_maximum + (1 - DECAY) * high
        self.batches += 1
        self.recent.extend((low, high))
        if len(self.recent) > 4 * RECENT:
            del self.recent[: -2 * RECENT]

    def merge(self, later: "Sketch") -> None:
        """Add the sketch of samples that come after this one's.

        The ranges of the later batches are added one by one where all are known: then the merged sketch is
        that of one pass, bit by bit.
        """
        self.binned = self.counts + later.counts
        self.minimum = min(self.minimum, later.minimum)
        self.maximum = max(self.maximum, later.maximum)
        self.seen += later.seen
        if len(later.recent) == 2 * later.batches:
            for low, high in zip(later.recent[::2], later.recent[1::2], strict=True):
                self._follow(low, high)
            return
        fade = DECAY**later.batches
        self.ema_minimum = fade * self.ema_minimum + later.ema_minimum
        self.ema_maximum = fade * self.ema_maximum + later.ema_maximum
        self.batches += later.batches
        self.recent = later.recent[:]

    def within(self, low: float, high: float) -> "Sketch":
        """Return the sketch clipped to [low, high]: values outside count at its ends."""
        return replace(
            self, binned=self.counts, minimum=max(self.minimum, low), maximum=min(self.maximum, high)
        )

    def moving_range(self) -> tuple[float, float]:
        """Return the moving averages of minimum and maximum, corrected for their start at 0."""
        weight = 1 - DECAY**self.batches
        return self.ema_minimum / weight, self.ema_maximum / weight

    def distribution(self) -> "Distribution":
        """Return the counts in ascending order of value, with edges cut to the exact minimum and maximum."""
        counts = self.counts[ORDER]
        (filled,) = np.nonzero(counts != 0)  # of booleans it is several times faster
        lower = np.clip(LOWER[filled], self.minimum, self.maximum)
        upper = np.clip(UPPER[filled], self.minimum, self.maximum)
        return Distribution(counts[filled].astype(np.float64), lower, upper)


@dataclass(frozen=True)
class Distribution:
    """Non-empty bins in ascending order: counts, lower and upper edges, all [bins] float64."""

    counts: Array
    lower: Array
    upper: Array

    @property
    def centers(self) -> Array:
        """The middle of each bin."""
        return (self.lower + self.upper) / 2

    def quantile(self, share: float) -> float:
        """Return the value below which `share` (0..1) of all values lie, interpolated inside its bin."""
        cumulative = np.cumsum(self.counts)
        rank = share * (cumulative[-1] - 1) + 0.5
        index = int(np.searchsorted(cumulative, rank))
        index = min(index, len(self.counts) - 1)
        inside = (rank - (cumulative[index] - self.counts[index])) / self.counts[index]
        return float(self.lower[index] + np.clip(inside, 0, 1) * (self.upper[index] - self.lower[index]))
