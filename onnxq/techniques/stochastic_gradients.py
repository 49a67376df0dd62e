"""Gradients in few bits: stochastic rounding without bias, and feedback of the rounding error.

Each value is rounded up or down at random, so that its mean is exact (D. Alistarh et al., "QSGD:
Communication-Efficient SGD via Gradient Quantization and Encoding", NeurIPS 2017). The error of a step is
added to the next gradient (F. Seide et al., "1-Bit Stochastic Gradient Descent", Interspeech 2014; S. P.
Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", ICML 2019).
"""

from dataclasses import dataclass

import numpy as np

from onnxq.types import Array, Floats, Integers

BLOCK = 128
"""Values that share a scale."""


@dataclass(frozen=True)
class QuantizedGradient:
    """A gradient as integers: int8 of a few bits, with a scale for each block of `BLOCK` values.

    integers  [size], in the order of the flat gradient
    scales    [blocks]
    shape     of the gradient
    bits      bits of an integer that are used, sign included
    """

    integers: Integers
    scales: Floats
    shape: tuple[int, ...]
    bits: int

    @property
    def size(self) -> int:
        """Bytes that the integers, packed, and the scales take."""
        return -(-self.integers.size * self.bits // 8) + self.scales.nbytes

    def dequantize(self) -> Floats:
        """Return the gradient."""
        scales = np.repeat(self.scales, BLOCK)[: self.integers.size]
        return np.asarray((self.integers * scales).reshape(self.shape), np.float32)


def quantize_gradient(gradient: Floats, bits: int, rng: np.random.Generator) -> QuantizedGradient:
    """Round a gradient at random to integers; the mean over many draws is the gradient.

    Args:
        gradient: of any shape.
        bits: 2 to 8.
        rng: source of the random numbers.
    """
    limit = 2 ** (bits - 1) - 1
    flat = np.asarray(gradient, np.float32).reshape(-1)
    blocks = -(-flat.size // BLOCK)
    padded = np.zeros(blocks * BLOCK, np.float32)
    padded[: flat.size] = np.abs(flat)
    largest = padded.reshape(blocks, BLOCK).max(axis=1, initial=0)
    scales = np.where(largest > 0, largest / limit, 1).astype(np.float32)
    steps = flat / np.repeat(scales, BLOCK)[: flat.size]
    integers: Array = np.floor(steps + rng.random(flat.size, np.float32))
    return QuantizedGradient(np.clip(integers, -limit, limit).astype(np.int8), scales, gradient.shape, bits)


def with_feedback(
    gradient: Floats, error: Floats, bits: int, rng: np.random.Generator
) -> tuple[QuantizedGradient, Floats]:
    """Quantize a gradient together with the error of the step before; return the error of this one, too.

    Args:
        gradient: of this step.
        error: that the step before left, of the same shape; zero at first.
        bits: 2 to 8.
        rng: source of the random numbers.
    """
    wanted = np.asarray(gradient + error, np.float32)
    quantized = quantize_gradient(wanted, bits, rng)
    return quantized, np.asarray(wanted - quantized.dequantize(), np.float32)
