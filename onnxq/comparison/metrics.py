"""Noise of a quantized model's value against float, added sample by sample."""

import math
from dataclasses import dataclass

import numpy as np

from onnxq.errors import ModelError
from onnxq.types import Array

MAX_DB = 200.0


def aligned(want: Array, have: Array) -> tuple[Array, Array]:
    """Return both values in one shape, filled with zeros.

    Sizes may depend on the values (boxes found, tokens written); a value that one model lacks is wrong. A
    value in front of a Softmax may be a view of the other model's.

    Raises:
        ModelError: they differ in rank and size.
    """
    if want.shape == have.shape:
        return want, have
    if want.ndim != have.ndim and want.size == have.size:
        return want, have.reshape(want.shape)
    if want.ndim != have.ndim:
        raise ModelError(f"outputs have {want.ndim} and {have.ndim} axes")
    shape = np.maximum(want.shape, have.shape)
    x, y = (
        np.pad(array, [(0, most - size) for most, size in zip(shape, array.shape, strict=True)])
        for array in (want, have)
    )
    return x, y


@dataclass
class Noise:
    """Signal and noise of one value, added sample by sample; values not finite in float do not count."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, want: Array, have: Array) -> None:
        """Add the values of the float model and of another model."""
        finite = np.isfinite(want)
        x, y = want[finite].astype(np.float64), have[finite].astype(np.float64)
        self.signal += float(x @ x)
        self.noise += float((y - x) @ (y - x))

    def sqnr_db(self) -> float | None:
        """Return the signal-to-quantization-noise ratio, -200..200 dB; None without a signal."""
        if self.signal <= 0:
            return None
        ratio = self.noise / self.signal
        return (
            -MAX_DB
            if not math.isfinite(ratio)
            else float(np.clip(-10 * math.log10(max(ratio, 1e-30)), -MAX_DB, MAX_DB))
        )
