"""What is measured between a float and a quantized model's outputs; everything is added sample by sample."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxq.errors import ModelError
from onnxq.schemes import Array

MAX_DB = 200.0


def aligned(want: Array, have: Array) -> tuple[Array, Array]:
    """Both in one shape, filled with zeros: where the values decide about sizes (boxes found, tokens written), what one lacks is wrong.

    Raises:
        ModelError: they differ in rank.
    """
    if want.shape == have.shape:
        return want, have
    if want.ndim != have.ndim:
        raise ModelError(f"outputs have {want.ndim} and {have.ndim} axes")
    shape = np.maximum(want.shape, have.shape)
    x, y = (np.pad(array, [(0, most - size) for most, size in zip(shape, array.shape, strict=True)]) for array in (want, have))
    return x, y


@dataclass
class OutputError:
    """Signal and noise of each float output, summed over samples.

    The SQNR of several outputs is that of their mean noise-to-signal ratio, so the worst counts most. `samples` holds each sample's own
    (signal, noise) by output.
    """

    names: Sequence[str]
    signal: dict[str, float] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)
    samples: list[dict[str, tuple[float, float]]] = field(default_factory=list)
    largest: float = 0.0
    cosines: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def add(self, expected: Sequence[Array], actual: Sequence[Array]) -> None:
        """Add one sample's outputs, in the order of `names`; those that are not float do not count."""
        dots = lengths = others = 0.0
        own: dict[str, tuple[float, float]] = {}
        for name, want, have in zip(self.names, expected, actual, strict=True):
            if not isinstance(want, np.ndarray) or not np.issubdtype(want.dtype, np.floating):
                continue
            want, have = aligned(want, np.asarray(have))
            finite = np.isfinite(want)
            x, y = want[finite].astype(np.float64), have[finite].astype(np.float64)
            difference = y - x
            own[name] = float(x @ x), float(difference @ difference)
            self.signal[name] = self.signal.get(name, 0.0) + own[name][0]
            self.noise[name] = self.noise.get(name, 0.0) + own[name][1]
            self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))
            dots, lengths, others = dots + float(x @ y), lengths + float(x @ x), others + float(y @ y)
        if lengths > 0 and others > 0:
            self.cosines[0] += dots / math.sqrt(lengths * others)
            self.cosines[1] += 1
        self.samples.append(own)

    def sqnr_db(self) -> float | None:
        """Signal-to-quantization-noise ratio in dB, at most 200; None without a float output."""
        ratios = [self.noise[name] / signal for name, signal in self.signal.items() if signal > 0]
        if not ratios:
            return None
        ratio = float(np.mean(ratios))
        if not math.isfinite(ratio):
            return -MAX_DB
        return min(MAX_DB, -10 * math.log10(max(ratio, 1e-30)))

    def standard_error_db(self) -> float:
        """By how many dB the SQNR is less with one standard error more of noise: how much chance there is in these samples.

        Of a ratio of sums, by its linear approximation (Cochran, Sampling Techniques, section 6.4).
        """
        names = [name for name, signal in self.signal.items() if signal > 0]
        ratios = {name: self.noise[name] / self.signal[name] for name in names}
        ratio, count = sum(ratios.values()), len(self.samples)
        if count < 2 or not 0 < ratio < math.inf:
            return 0.0
        deviations = [
            sum((own[name][1] - ratios[name] * own[name][0]) / self.signal[name] for name in names if name in own) for own in self.samples
        ]
        error = math.sqrt(count / (count - 1) * sum(each**2 for each in deviations))
        return 10 * math.log10(1 + error / ratio)

    def cosine(self) -> float | None:
        """Mean over samples of the cosine between all float outputs."""
        return self.cosines[0] / self.cosines[1] if self.cosines[1] else None


def noise_shares(samples: Sequence[Mapping[str, tuple[float, float]]]) -> list[float]:
    """What each sample adds to the ratio of noise to signal, mean over the outputs, from its own (signal, noise) by output."""
    signal: dict[str, float] = {}
    for own in samples:
        for name, (power, _) in own.items():
            signal[name] = signal.get(name, 0.0) + power
    counted = {name: power for name, power in signal.items() if power > 0}
    return [sum(own[name][1] / counted[name] for name in own if name in counted) / max(len(counted), 1) for own in samples]
