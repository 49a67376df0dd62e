"""The training of a quantized model: AdamW, and checks on samples kept aside."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from onnxq.comparison.errors import decibels
from onnxq.finetune.examples import Batches
from onnxq.finetune.form import TrainingForm
from onnxq.finetune.gradients import GradientGraph
from onnxq.finetune.trained import Bias, Growth, Trained, Weight
from onnxq.runtime.interruption import going_on_after_interrupt
from onnxq.runtime.progress import progress
from onnxq.techniques.adamw import AdamState, adamw, warm_up_and_cosine
from onnxq.techniques.stochastic_gradients import with_feedback
from onnxq.types import Floats

Judge = Callable[[dict[str, Floats]], float]
"""Signature: trained values -> noise / signal of the outputs on samples kept aside, mean over their parts."""
USUAL_NOISE, MOST_NOISE = 1e-3, 1e-2
"""Noise / signal at which `Rates` hold as they stand, and beyond which they do not grow."""
MOST_LOST = 1.1
"""Noise, as a multiple of the least so far, from which a training goes back to its best values."""
LEAST_FACTOR = 1 / 16
"""Factor of the rates below which a training ends."""


@dataclass(frozen=True)
class Rates:
    """Largest change per step of each kind of trained value, for outputs at 30 dB; see `for_noise`.

    weight  in steps of the weight's scale, for 8 bits; fewer bits take smaller parts of their larger steps
    bias    in units of `form.with_units`
    scale   of the logarithm of an activation's scale
    growth  of the logarithm of a weight's scale
    """

    weight: float = 0.01
    bias: float = 0.0025
    scale: float = 0.0005
    growth: float = 0.001

    def for_noise(self, noise: float) -> "Rates":
        """Return the rates for outputs of another noise / signal, whose values are as far from their best."""
        return self.times(float(np.sqrt(min(noise, MOST_NOISE) / USUAL_NOISE)), 8)

    def times(self, factor: float, bits: int) -> "Rates":
        """Return the rates times a factor; weights of few bits have larger steps and take fewer."""
        return Rates(
            self.weight * factor * 2.0 ** ((bits - 8) / 2),
            self.bias * factor,
            self.scale * factor,
            self.growth * factor,
        )

    def of(self, trained: Trained) -> float:
        """Return the rate of a trained value."""
        if isinstance(trained, Weight):
            return self.weight
        if isinstance(trained, Growth):
            return self.growth
        return self.bias if isinstance(trained, Bias) else self.scale


@dataclass(frozen=True)
class Schedule:
    """How long to train.

    steps     number of steps
    checks    steps between two checks on the samples kept aside
    patience  checks without a gain, in the second half, after which the training ends
    """

    steps: int
    checks: int
    patience: int = 5


@dataclass(frozen=True, eq=False)
class State:
    """The state of a training after some steps.

    step     steps done
    values   trained values
    adam     moments of each gradient
    errors   rounding errors of quantized gradients, for the next step
    best     trained values that the checks found best
    noise    their noise / signal
    losses   loss of each step
    checks   noise / signal at each check, with its step
    interrupted  whether the user ended the training
    factor   of the rates; it is halved where a check finds the outputs far from the best
    """

    step: int
    values: dict[str, Floats]
    adam: dict[str, AdamState]
    errors: dict[str, Floats]
    best: dict[str, Floats]
    noise: float
    losses: tuple[float, ...] = ()
    checks: tuple[tuple[int, float], ...] = ()
    interrupted: bool = False
    factor: float = 1.0

    @property
    def best_step(self) -> int:
        """Return the step of the best check."""
        return min(self.checks, key=lambda each: (each[1], each[0]))[0] if self.checks else 0


@dataclass(frozen=True, eq=False)
class Training:
    """A training: everything that decides its result.

    form           what is trained
    graph          its loss and gradients
    batches        the examples
    schedule       how long
    rates          how fast
    judge          measures trained values on samples kept aside; None to train without checks
    gradient_bits  bits of the gradients, 32 for floats
    seed           of random rounding
    saved          takes the state after each check
    """

    form: TrainingForm
    graph: GradientGraph
    batches: Batches
    schedule: Schedule
    rates: Rates
    judge: Judge | None
    gradient_bits: int = 32
    seed: int = 0
    saved: Callable[[State], None] = field(default=lambda _: None)

    def begin(self, values: dict[str, Floats]) -> State:
        """Return the state before the first step."""
        adam = {name: AdamState.zero(value) for name, value in values.items()}
        errors = (
            {name: np.zeros_like(value) for name, value in values.items()} if self.gradient_bits < 32 else {}
        )
        return State(0, values, adam, errors, values, math.inf)

    def run(self, state: State, title: str) -> State:
        """Train until the schedule ends, nothing is gained any more, or the user interrupts."""
        steps, ended = self.schedule.steps, False
        with (
            going_on_after_interrupt(),
            progress(total=steps, initial=state.step, desc=title, unit="step") as bar,
        ):
            state = state if state.checks else self._checked(state)
            while state.step < steps and not self._exhausted(state):
                state = self._step(state)
                if state.step % self.schedule.checks == 0 or state.step == steps:
                    state = self._checked(state)
                    self.saved(state)
                bar.set_postfix_str(self._figures(state), refresh=False)
                bar.update()
            ended = True
        return state if ended else replace(state, interrupted=True)

    def _figures(self, state: State) -> str:
        loss = f"loss {np.mean(state.losses[-10:]):.3g}"
        return f"{loss}, validation {decibels(state.checks[-1][1]):.2f} dB" if state.checks else loss

    def _exhausted(self, state: State) -> bool:
        """Tell whether nothing is gained any more; while the rate is high, a training may lose for a time."""
        if state.factor < LEAST_FACTOR:
            return True
        half = self.schedule.steps // 2
        waited = [step for step, _ in state.checks if step > max(state.best_step, half)]
        return len(waited) >= self.schedule.patience

    def _checked(self, state: State) -> State:
        if self.judge is None:
            return replace(state, best=state.values)
        noise = self.judge(state.values)
        checks = (*state.checks, (state.step, noise))
        if noise < state.noise:
            return replace(state, checks=checks, best=state.values, noise=noise)
        if noise < MOST_LOST * state.noise:
            return replace(state, checks=checks)
        # the steps were too large: go back and take smaller ones
        adam = {name: AdamState.zero(value) for name, value in state.best.items()}
        return replace(state, checks=checks, values=state.best, adam=adam, factor=state.factor / 2)

    def _step(self, state: State) -> State:
        """Return the state after one step."""
        loss, gradients = self._gradients(state)
        rate = state.factor * warm_up_and_cosine(state.step, self.schedule.steps)
        values, adam, errors = dict(state.values), dict(state.adam), dict(state.errors)
        rng = np.random.default_rng((self.seed, state.step))
        for name, gradient in gradients.items():
            trained, own = self.form.trained[name], gradient
            if self.gradient_bits < 32:
                quantized, errors[name] = with_feedback(own, errors[name], self.gradient_bits, rng)
                own = quantized.dequantize()
            value, adam[name] = adamw(values[name], own, adam[name], rate * self.rates.of(trained))
            values[name] = trained.clipped(value)
        return replace(
            state, step=state.step + 1, values=values, adam=adam, errors=errors, losses=(*state.losses, loss)
        )

    def _gradients(self, state: State) -> tuple[float, dict[str, Floats]]:
        """Return loss and gradients of a batch, means over its samples."""
        fed = self.form.fed(state.values)
        total, sums, count = 0.0, dict[str, Floats](), 0
        for example, size in self.batches.of(state.step):
            loss, gradients = self.graph(example, size, fed)
            total += loss * size
            count += size
            for name, gradient in gradients.items():
                sums[name] = gradient * np.float32(size) + sums.get(name, np.float32(0))
        means = {name: each / np.float32(count) for name, each in sums.items()}
        return total / count, self.form.gradients(state.values, fed, means)
