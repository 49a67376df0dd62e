"""What is remembered of a tensor's values: fixed size, needs no range beforehand, merges by addition.

The upper 16 bits of a float32 (its truncated bfloat16: sign, exponent, 7 bits of mantissa) number
65,536 bins, spaced logarithmically with relative width 2^-7. Beside the counts stand what is exact:
minimum, maximum, the number of values, and the exponential moving average of each batch's range.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from onnxq.types import Array

BINS = 1 << 16
DECAY = 0.99
"""Weight of the past in the moving average of ranges, a batch."""


def _bin_edges() -> tuple[Array, Array, Array]:
    """Bin numbers by ascending value, with the lower and upper edge of each (finite bins only)."""
    positive = np.arange(0x7F80, dtype=np.uint32)
    low = (positive << 16).view(np.float32).astype(np.float64)
    high = np.append(low[1:], np.float64(2.0**128))
    high[0] = 0.0  # zero, and denormal numbers that count as zero
    order = np.concatenate([(positive + 0x8000)[::-1], positive])
    return order, np.concatenate([-high[::-1], low]), np.concatenate([-low[::-1], high])


ORDER, LOWER, UPPER = _bin_edges()


@dataclass(frozen=True)
class Measured:
    """One batch of one tensor: exact range and size, and the bin numbers of the values that count."""

    low: float
    high: float
    size: int
    bins: Array


def measure(values: Array, *, stride: int = 1, offset: int = 0) -> Measured | None:
    """Measure float32 values of any shape; None where there are none. NaN and Inf reach low and high."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    if flat.size == 0:
        return None
    upper_halves = flat.view(np.uint16)[1::2][offset % stride :: stride].copy()
    return Measured(float(flat.min()), float(flat.max()), flat.size, upper_halves)


@dataclass
class Sketch:
    """Statistics of one tensor over all samples seen.

    binned     [65536] int64 counts, of a part of the values where a tensor is large; read `counts`
    minimum, maximum  of all values, exactly
    seen       number of values, all of them
    ema_minimum, ema_maximum, batches  sums of the moving average, not yet corrected for their start
    """

    binned: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))
    minimum: float = np.inf
    maximum: float = -np.inf
    seen: int = 0
    ema_minimum: float = 0.0
    ema_maximum: float = 0.0
    batches: int = 0
    _pending: list[Array] = field(default_factory=list)
    _waiting: int = 0

    @property
    def counts(self) -> Array:
        """Number of values in each bin, [65536] int64."""
        if self._pending:
            found = np.bincount(np.concatenate(self._pending), minlength=BINS)
            (filled,) = np.nonzero(found)
            self.binned[filled] += found[filled]  # pages of bins that no value falls into are never touched
            self._pending, self._waiting = [], 0
        return self.binned

    def count(self, bins: Array, most: int = BINS) -> None:
        """Count values by bin number; counting many at once is what makes it cheap, so that up to `most` wait."""
        self._pending.append(bins)
        self._waiting += bins.size
        if self._waiting >= most:
            _ = self.counts

    def update(self, values: Array, *, stride: int = 1, offset: int = 0) -> None:
        """Add one batch of float32 values; of large tensors every `stride`-th from `offset` is counted."""
        measured = measure(values, stride=stride, offset=offset)
        if measured is not None:
            self.count(measured.bins)
            self.add_range(measured)

    def add_range(self, measured: "Measured") -> None:
        """Add what depends on the order of batches, and what is exact."""
        self.minimum, self.maximum = min(self.minimum, measured.low), max(self.maximum, measured.high)
        self.seen += measured.size
        self.ema_minimum = DECAY * self.ema_minimum + (1 - DECAY) * measured.low
        self.ema_maximum = DECAY * self.ema_maximum + (1 - DECAY) * measured.high
        self.batches += 1

    def merge(self, later: "Sketch") -> None:
        """Add the sketch of samples that come after this one's."""
        self.binned = self.counts + later.counts
        self.minimum = min(self.minimum, later.minimum)
        self.maximum = max(self.maximum, later.maximum)
        self.seen += later.seen
        fade = DECAY**later.batches
        self.ema_minimum = fade * self.ema_minimum + later.ema_minimum
        self.ema_maximum = fade * self.ema_maximum + later.ema_maximum
        self.batches += later.batches

    def within(self, low: float, high: float) -> "Sketch":
        """The sketch of the same values, those outside [low, high] moved to its ends."""
        return replace(
            self, binned=self.counts, minimum=max(self.minimum, low), maximum=min(self.maximum, high)
        )

    def moving_range(self) -> tuple[float, float]:
        """The moving average of (minimum, maximum), corrected for its start at zero."""
        weight = 1 - DECAY**self.batches
        return self.ema_minimum / weight, self.ema_maximum / weight

    def distribution(self) -> "Distribution":
        """The counts as bins in ascending order, edges cut to the exact minimum and maximum."""
        counts = self.counts[ORDER]
        (filled,) = np.nonzero(counts)
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
        """The value below which `share` (0..1) of all values lie, interpolated inside its bin."""
        cumulative = np.cumsum(self.counts)
        rank = share * (cumulative[-1] - 1) + 0.5
        index = int(np.searchsorted(cumulative, rank))
        index = min(index, len(self.counts) - 1)
        inside = (rank - (cumulative[index] - self.counts[index])) / self.counts[index]
        return float(self.lower[index] + np.clip(inside, 0, 1) * (self.upper[index] - self.lower[index]))
