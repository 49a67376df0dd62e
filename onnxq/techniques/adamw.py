"""AdamW: steps of a gradient descent whose size does not depend on the gradient's scale.

I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019. The decay pulls to the value
at the start, not to zero: what is trained is a correction of a model that works (X. Li et al., "Explicit
Inductive Bias for Transfer Learning with Convolutional Networks", ICML 2018).
"""

import math
from dataclasses import dataclass

import numpy as np

from onnxq.types import Floats

BETAS, EPSILON = (0.9, 0.99), 1e-12
"""Forgetting factors of both moments; steps are few, so the second one forgets faster than 0.999."""


@dataclass(frozen=True)
class AdamState:
    """Running means of the gradient and its square, each of the value's shape, and the number of steps."""

    first: Floats
    second: Floats
    steps: int = 0

    @staticmethod
    def zero(value: Floats) -> "AdamState":
        """Return the state before the first step."""
        return AdamState(np.zeros_like(value), np.zeros_like(value))


def adamw(
    value: Floats,
    gradient: Floats,
    state: AdamState,
    rate: float,
    decay: float = 0.0,
    start: Floats | None = None,
) -> tuple[Floats, AdamState]:
    """Return the value and the state after one step.

    Args:
        value: the trained value.
        gradient: of the loss.
        state: after the step before.
        rate: largest change of an element by a steady gradient.
        decay: share of the distance from `start` that a step takes back, per unit of `rate`.
        start: value at the start; zero by default.
    """
    steps = state.steps + 1
    first = np.asarray(BETAS[0] * state.first + (1 - BETAS[0]) * gradient, np.float32)
    second = np.asarray(BETAS[1] * state.second + (1 - BETAS[1]) * np.square(gradient), np.float32)
    deviation = np.sqrt(second / (1 - BETAS[1] ** steps)) + EPSILON
    moved = value - rate / (1 - BETAS[0] ** steps) * first / deviation
    if decay:
        moved = moved - rate * decay * (moved - (0 if start is None else start))
    return np.asarray(moved, np.float32), AdamState(first, second, steps)


def warm_up_and_cosine(step: int, steps: int, warm_up: float = 0.05) -> float:
    """Return the rate of a step in 0..steps - 1 as a share of the largest.

    It grows linearly over the first share of the steps, then falls along a cosine to zero. I. Loshchilov and
    F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.
    """
    rising = max(1, round(warm_up * steps))
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
