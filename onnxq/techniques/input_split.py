"""Input split: an LSTM input of wide range becomes a coarse and a fine 8-bit part.

The runtime quantizes the whole input of an LSTM to uint8 by the minimum and maximum of each run. A power
spectrogram defeats this: quiet columns have 10^-4 of the loud ones' values, but they last. Plain
rounding makes them 0 at each time step, and the LSTM never sees them.

Digits. Each column of x gets its own step. In a run all steps are multiplied by one number, `unit`, so
that the largest magnitude is 255 steps (128 for signed inputs). At each time step t

    first[t]  = floor(x[t] / step)                  coarse part, whole steps
    r[t]      = 16 (x[t] / step - first[t])         remainder, in sixteenths of a step
    second[t] = round(s[t]) - round(s[t - 1])       fine part, with s[t] = r[0] + ... + r[t]

The fine parts add up to round(s[t]): their sum is never off by more than half a sixteenth, however long
the sequence, so a layer with memory loses nothing. This is first-order noise shaping (S. R. Norsworthy
et al., Delta-Sigma Data Converters, 1997, ch. 1).

Weights. The first digit of a column meets W step, the second W step / 16. Both weights of a column stand
in an order that alternates large and small ones (see `interleave`), so that neighbours along K obey the
pair rule (see `saturation`) at hardly any cost.

Range. The runtime's quantization itself does the rounding of s[t]. It maps the first digits to
themselves only if its step is one unit. Signed inputs get two constant columns with weight 0 that fix the
range of a run. Unsigned ones have the range [-0.5, 255], because a fine part may reach -0.5 before it is
rounded: the weights' scales are divided by WIDER = 255.5 / 255 for it. A run that stays above -0.5 is
off by some 10^-4 of a value.
"""

from dataclasses import dataclass

import numpy as np

from onnxq.types import Array, Floats, Integers

FINE = 16
"""Parts of a step that the second digit counts."""
TOP, TOP_SIGNED = 255.5, 127.5
"""Steps of the largest magnitude of a run.

The extra half lets floor() reach the last step despite rounding in float32.
"""
WIDER = 255.5 / 255
"""The range of an unsigned run, in units of 255 steps."""
NEGLIGIBLE = 1e-6
"""Share of the largest weight below which the weights of a column count as equally small."""
LEAST_CONTRIBUTION = 0.01
"""Least contribution of a column's step, as a share of the strongest column's contribution.

A column that was silent in calibration may be loud later.
"""


@dataclass(frozen=True)
class Split:
    """The split of an input [seq, batch, K], and its weights.

    steps   [K], steps of the columns, relative to one another
    signed  whether values may be negative: two constant columns of weight 0 then fix the range of a run
    stored  [..., rows, 2 K (+ 2)] int8
    scales  [..., rows], of the stored integers, divided by WIDER where unsigned
    """

    steps: Floats
    signed: bool
    stored: Integers
    scales: Floats


def column_steps(weight: Floats, power: Floats) -> Floats:
    """Return the relative steps of the columns, [K], at most 1.

    A step is proportional to the column's root mean square. It is raised where the weights make the column
    contribute little.

    Args:
        weight: [..., rows, K].
        power: [K], E[x^2].
    """
    magnitude = np.sqrt(power.astype(np.float64))
    largest_weight = np.abs(weight).reshape(-1, weight.shape[-1]).max(axis=0).astype(np.float64)
    largest_weight = np.maximum(largest_weight, NEGLIGIBLE * (largest_weight.max() or 1.0))
    strongest = (magnitude * largest_weight).max()
    steps = np.maximum(magnitude, LEAST_CONTRIBUTION * strongest / largest_weight)
    largest = steps.max()
    return np.asarray(steps / largest if largest > 0 else np.ones_like(steps), np.float32)


def interleave(first: Array, second: Array) -> Array:
    """Lay out two arrays [..., K] as [..., 2 K], so that neighbours come from different ones.

    The first K take even columns of `first` and odd ones of `second`, the last K take the others.
    """
    even = np.arange(first.shape[-1]) % 2 == 0
    return np.concatenate([np.where(even, first, second), np.where(even, second, first)], axis=-1)


def split_weight(weight: Floats, steps: Floats) -> Floats:
    """Return the weights of the digits, [..., rows, 2 K], from [..., rows, K]."""
    return interleave(weight * steps, weight * (steps / FINE)).astype(np.float32)


def digits(x: Floats, steps: Floats, *, signed: bool) -> Floats:
    """Return an input [seq, ..., K] as the columns [seq, ..., 2 K] of its digits, times `unit`.

    The second digits are the remainders r, without the rounding over time.
    """
    scaled = x / steps
    unit = max(float(np.abs(scaled).max(initial=0)), float(np.finfo(np.float32).tiny)) / (
        TOP_SIGNED if signed else TOP
    )
    scaled /= unit
    first = np.floor(scaled)
    return np.asarray(interleave(first, (scaled - first) * FINE) * unit, np.float32)
