"""Inputs whose range is too wide for 8 bits, as two digits: whole steps, and sixteenths of a step whose errors cancel over time.

Each column of x gets a step of its own, and they grow together until the largest value of a run is 255 steps (128, where
values may be negative). The first digit is floor(x / step). What is left, r in sixteenths, is rounded so that no error is ever
lost: the second digit is round(s) - round(s - r) with s the sum of r so far. What a layer with a memory has seen of a column in
all is then never off by more than half a sixteenth, where plain rounding takes what is small for nothing each time (first-order
noise shaping; S. R. Norsworthy et al., Delta-Sigma Data Converters, 1997, ch. 1). Power spectrograms need it: what is quiet
lasts, and it is 10^-4 of what is loud.

The runtime quantizes what it is given by the range of the run; that range is 255 steps and, for what is due may be half a sixteenth
below 0, half a unit. So the first digits stay what they are, it is the runtime that rounds the second ones, and the weights' scales
make up for the half: to some 10^-4 of a value, for no run has to come that low.

The digits stand side by side twice over the columns, one column's first beside its neighbour's second, whose weight is small:
so that two neighbours along K obey the pair rule (see `saturation`) at hardly any cost.
"""

from dataclasses import dataclass

import numpy as np

from onnxq.types import Array, Floats, Integers

FINE = 16
"""Parts of a step that the second digit counts."""
TOP, TOP_SIGNED = 255.5, 127.5
"""Steps that the largest magnitude of a run is given; with the half floor() reaches the last one whatever rounding does."""
WIDER = 255.5 / 255
"""By how much the range of a run without negative values is wider than 255 steps."""
NEGLIGIBLE = 1e-6
"""Of the largest weight: columns with none above that are alike, however small theirs are."""
LEAST = 0.01
"""Of what the strongest column contributes, as much as a column's step stands for at least: one that was silent may be loud one day."""


@dataclass(frozen=True)
class Split:
    """How an input [seq, batch, K] is divided, and its weights.

    steps   [K], of the columns, relative to one another
    signed  whether values may be negative: two more columns then hold the range of a run, and their weights are 0
    stored  [..., rows, 2 K (+ 2)] int8
    scales  [..., rows], of the stored integers with those that the runtime makes of the digits
    """

    steps: Floats
    signed: bool
    stored: Integers
    scales: Floats


def column_steps(weight: Floats, power: Floats) -> Floats:
    """Steps of the columns, relative to one another: their root mean squares, raised where the weights make nothing of them.

    Args:
        weight: [..., rows, K].
        power: [K], E[x^2].
    """
    magnitude = np.sqrt(power.astype(np.float64))
    weighed = np.abs(weight).reshape(-1, weight.shape[-1]).max(axis=0).astype(np.float64)
    weighed = np.maximum(weighed, NEGLIGIBLE * (weighed.max() or 1.0))
    steps = np.maximum(magnitude, LEAST * (magnitude * weighed).max() / weighed)
    largest = steps.max()
    return np.asarray(steps / largest if largest > 0 else np.ones_like(steps), np.float32)


def by_turns(first: Array, second: Array) -> Array:
    """Two arrays [..., K] side by side, [..., 2 K]: even columns of the first with odd ones of the second, then the others."""
    even = np.arange(first.shape[-1]) % 2 == 0
    return np.concatenate([np.where(even, first, second), np.where(even, second, first)], axis=-1)


def split_weight(weight: Floats, steps: Floats) -> Floats:
    """The weights of the digits, [..., rows, 2 K], of [..., rows, K]."""
    return by_turns(weight * steps, weight * (steps / FINE)).astype(np.float32)


def digits(x: Floats, steps: Floats, *, signed: bool) -> Floats:
    """The digits of an input [seq, ..., K] as the columns [seq, ..., 2 K] that the weights multiply, the second not rounded yet."""
    scaled = x / steps
    unit = max(float(np.abs(scaled).max(initial=0)), float(np.finfo(np.float32).tiny)) / (
        TOP_SIGNED if signed else TOP
    )
    scaled /= unit
    first = np.floor(scaled)
    return np.asarray(by_turns(first, (scaled - first) * FINE) * unit, np.float32)
