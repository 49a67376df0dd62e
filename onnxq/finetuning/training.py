"""The training of a quantized model: AdamW, and checks on samples kept aside."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from onnxq.comparison.errors import decibels
from onnxq.finetuning.batch_gradients import BatchGradient
from onnxq.finetuning.form import TrainingForm
from onnxq.finetuning.trained import Bias, Trained
from onnxq.finetuning.trained_weights import Growth, Weight
from onnxq.runtime.interruption import going_on_after_interrupt
from onnxq.runtime.progress import progress
from onnxq.techniques.adamw import AdamState, adamw, warm_up_and_cosine
from onnxq.types import Floats

Judge = Callable[[dict[str, Floats]], float]
"""Signature: trained values -> noise / signal of the outputs on samples kept aside, mean over their parts."""
USUAL_NOISE, MOST_NOISE = 1e-3, 1e-2
"""Noise / signal at which `Rates` hold as they stand, and beyond which they do not grow."""
MOST_LOST = 1.1
"""Noise, as a multiple of the least so far, from which a training goes back to its best values."""
LEAST_FACTOR = 1 / 16
"""Factor of the rates below which a training ends."""

CHECKS, PATIENCE = 12, 5
"""Checks on samples kept aside during a training, and those without a gain after which it ends."""
MOST_UNCHECKED = 100
"""Most steps between two checks, after which the state is kept; long trainings have more checks."""


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
    patience: int = PATIENCE

    @staticmethod
    def of(steps: int) -> "Schedule":
        """Return the schedule of a training of a number of steps."""
        wanted = max(1, steps // CHECKS)
        checks = min(wanted, MOST_UNCHECKED)
        return Schedule(steps, checks, PATIENCE * wanted // checks)


@dataclass(frozen=True, eq=False)
class State:
    """The state of a training after some steps.

    step     steps done
    values   trained values
    adam     moments of each gradient
    best     trained values that the checks found best
    noise    their noise / signal
    losses   loss of each step
    frozen   nodes behind which gradients end, with the reason, by name
    checks   noise / signal at each check, with its step
    interrupted  whether the user ended the training
    factor   of the rates; it is halved where a check finds the outputs far from the best
    """

    step: int
    values: dict[str, Floats]
    adam: dict[str, AdamState]
    best: dict[str, Floats]
    noise: float
    losses: tuple[float, ...] = ()
    frozen: Mapping[str, str] = field(default_factory=dict)
    checks: tuple[tuple[int, float], ...] = ()
    interrupted: bool = False
    factor: float = 1.0

    @property
    def best_step(self) -> int:
        """Return the step of the best check."""
        return min(self.checks, key=lambda each: (each[1], each[0]))[0] if self.checks else 0

    @property
    def arrays(self) -> list[dict[str, Floats]]:
        """The stored arrays by the name of the trained value."""
        moments = (
            {name: each.first for name, each in self.adam.items()},
            {name: each.second for name, each in self.adam.items()},
        )
        return [self.values, self.best, *moments]

    @property
    def reached(self) -> frozenset[str]:
        """Return the trained values that the loss depends on, as far as the steps have shown."""
        return frozenset(name for name, each in self.adam.items() if each.steps)


@dataclass(frozen=True, eq=False)
class Training:
    """A training: everything that decides its result.

    form       what is trained
    gradients  loss and gradients of the batch of a step
    schedule   how long
    rates      how fast
    judge      measures trained values on samples kept aside; None to train without checks
    saved      takes the state after each check
    """

    form: TrainingForm
    gradients: Callable[[int, dict[str, Floats]], BatchGradient]
    schedule: Schedule
    rates: Rates
    judge: Judge | None
    saved: Callable[[State], None] = field(default=lambda _: None)

    def begin(self, values: dict[str, Floats]) -> State:
        """Return the state before the first step."""
        adam = {name: AdamState.zero(value) for name, value in values.items()}
        return State(0, values, adam, values, math.inf)

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
        if ended:
            return state
        if state.step and state.checks and state.step > state.checks[-1][0]:
            state = self._checked(state)
        return replace(state, interrupted=True)

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
        return replace(state, checks=checks, values=state.best, factor=state.factor / 2)

    def _step(self, state: State) -> State:
        """Return the state after one step."""
        batch = self.gradients(state.step, state.values)
        found = self.form.gradients(state.values, self.form.fed(state.values), batch.gradients)
        rate = state.factor * warm_up_and_cosine(state.step, self.schedule.steps)
        values, adam = dict(state.values), dict(state.adam)
        for name, own in found.items():
            trained = self.form.trained[name]
            value, adam[name] = adamw(values[name], own, adam[name], rate * self.rates.of(trained))
            values[name] = trained.clipped(value)
        return replace(
            state,
            step=state.step + 1,
            values=values,
            adam=adam,
            losses=(*state.losses, batch.loss),
            frozen={**state.frozen, **batch.frozen},
        )
