"""Log-mel spectrograms of sounds, as speech recognizers of the Whisper family take them."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from onnxq.types import Array

LINEAR_HZ, LINEAR_MELS = 1000.0, 15.0
"""Up to this frequency the mel scale of Slaney's Auditory Toolbox is linear, with so many mels."""
LOG_STEP = float(np.log(6.4)) / 27
"""Natural logarithm of the ratio of frequencies that are one mel apart, above."""
LEAST_POWER, DYNAMIC_RANGE = 1e-10, 8.0
"""Least power of a band, and range below the loudest band that is kept, in powers of ten."""


@dataclass(frozen=True)
class LogMel:
    """Settings of a spectrogram.

    rate     sample rate, Hz
    bins     mel bands
    window   samples of a frame, and of its Fourier transform
    hop      samples between frames
    length   samples to which a sound is cut, or padded with zeros
    """

    rate: int = 16000
    bins: int = 80
    window: int = 400
    hop: int = 160
    length: int = 480000

    def of(self, wave: Array) -> Array:
        """Return the spectrogram [bins, frames] of a sound [samples], about -1 to 1.

        Source: Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, section 2.2, and
        the code published with it.
        """
        wave = wave[: self.length]
        wave = np.pad(wave, (0, self.length - len(wave)))
        edged = np.pad(wave, self.window // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(edged, self.window)[:: self.hop][:-1]
        taper = np.hanning(self.window + 1)[:-1]
        power = np.abs(np.fft.rfft(frames * taper)) ** 2
        bands = np.log10(np.maximum(power @ mel_filters(self.rate, self.bins, self.window).T, LEAST_POWER))
        bands = np.maximum(bands, bands.max() - DYNAMIC_RANGE)
        return np.asarray((bands.T + 4) / 4, np.float32)


@lru_cache(maxsize=4)
def mel_filters(rate: int, bins: int, window: int) -> Array:
    """Return triangular filters [bins, window // 2 + 1] of equal area between 0 Hz and half the rate."""
    frequencies = np.fft.rfftfreq(window, 1 / rate)
    edges = _hertz(np.linspace(0, _mels(rate / 2), bins + 2))
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return np.asarray(np.clip(np.minimum(rising, falling), 0, None) * 2 / (high - low))


def _mels(hertz: float) -> float:
    if hertz < LINEAR_HZ:
        return hertz * LINEAR_MELS / LINEAR_HZ
    return LINEAR_MELS + float(np.log(hertz / LINEAR_HZ)) / LOG_STEP


def _hertz(mels: Array) -> Array:
    above = LINEAR_HZ * np.exp(LOG_STEP * np.maximum(mels - LINEAR_MELS, 0))
    return np.where(mels < LINEAR_MELS, mels * LINEAR_HZ / LINEAR_MELS, above)
