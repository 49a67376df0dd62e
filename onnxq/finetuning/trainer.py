"""A training through all parts of a schedule of bits, and the source of its gradients."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from onnxq.errors import ModelError
from onnxq.finetuning.batch_gradients import BatchGradients
from onnxq.finetuning.checkpoint import Checkpoint
from onnxq.finetuning.examples import Batches
from onnxq.finetuning.form import TrainingForm
from onnxq.finetuning.gradient_job import GradientJob
from onnxq.finetuning.gradients import GradientGraph
from onnxq.finetuning.integer_form import with_bits
from onnxq.finetuning.judge import Judge
from onnxq.finetuning.trained import Values
from onnxq.finetuning.training import Rates, Schedule, State, Training
from onnxq.options import FinetuneOptions
from onnxq.quantization.weights import largest_magnitude
from onnxq.runtime.machine import available_cores
from onnxq.runtime.parallel import IN_PROCESS, Executor
from onnxq.search.trial import Outcome
from onnxq.types import Floats

Store = Callable[[TrainingForm, Values], Outcome]
"""Signature: form, trained values -> the outcome whose model holds these values."""


@dataclass(frozen=True, eq=False)
class Result:
    """The end of a training.

    state   the last state
    steps   steps of all parts
    layers  layers that were reconstructed before
    """

    state: State
    steps: int
    layers: int


@dataclass(frozen=True, eq=False)
class Work:
    """The source of gradients.

    executor  where
    batches   of which samples
    together  samples of equal shapes that run as one
    room      samples for whose values there is memory
    """

    executor: Executor
    batches: Batches
    together: int
    room: int

    def gradients(
        self, form: TrainingForm, options: FinetuneOptions, part: int, renewal: int
    ) -> BatchGradients:
        """Return the loss and gradients of a form.

        Args:
            form: what is trained.
            options: bits of the gradients, and seed.
            part: of the schedule of bits.
            renewal: steps after which rounding errors of gradients start at zero.
        """
        examples, seed = self.batches.examples, options.seed + part
        ordered = examples.observation.workers == 1 or bool(examples.teacher.stated)
        graph = GradientGraph(form.model, frozenset(form.trained), examples.observation, examples.points)
        job = GradientJob(graph, examples, self.together, options.gradient_bits, seed)
        side_by_side = 1 if ordered else min(self.batches.count, max(1, self.room // self.together))
        return BatchGradients(
            form,
            replace(self.batches, seed=seed),
            (IN_PROCESS if ordered else self.executor).opened(job, min(side_by_side, available_cores())),
            renewal if options.gradient_bits < 32 else None,
        )


@dataclass(frozen=True, eq=False)
class Trainer:
    """A training through all parts of a schedule of bits.

    form        the form with its trained values
    store       the outcome of trained values
    work        source of the gradients
    steps       of all parts
    options     bits of the parts, and rates
    judge       measures outcomes, to find the best step
    deciding    measures outcomes, to choose the weights to start with
    checkpoint  keeps the state
    """

    form: TrainingForm
    store: Store
    work: Work
    steps: int
    options: FinetuneOptions
    judge: Judge
    deciding: Judge
    checkpoint: Checkpoint

    def run(self, reconstruct: Callable[[], dict[str, Floats]]) -> Result:
        """Train, or go on from the checkpoint.

        Args:
            reconstruct: returns other values for the bits of the file, which may be better to start with.

        Raises:
            ModelError: the loss depends on no quantized weight.
        """
        found = self.checkpoint.load(self.form.start())
        first, resumed, layers = found if found is not None else (0, None, 0)
        each = max(1, self.steps // len(self.options.bits))
        values: Mapping[str, Floats] | None = None
        done = first * each
        for part in range(first, len(self.options.bits)):
            form = self._form(part)
            begin = form.carried(values)
            if resumed is not None and resumed.checks:
                noise = resumed.checks[0][1]
            else:
                if form is self.form:
                    begin, layers = self._begin(begin, reconstruct())
                noise = self._noise(begin if form is self.form else self.form.start())
            training = self._training(part, each, noise, layers)
            state = training.run(resumed or training.begin(begin), self._title(part))
            resumed, done, values = None, done + state.step, training.form.real(state.values)
            if state.step and not state.reached:
                raise ModelError(_unreachable(state))
            if state.interrupted and part + 1 < len(self.options.bits):
                # nothing was trained with the bits of the file
                state = replace(state, best=self.form.start(), noise=math.inf, checks=())
                break
        return Result(state, done, layers)

    def _begin(self, carried: dict[str, Floats], tried: dict[str, Floats]) -> tuple[dict[str, Floats], int]:
        """Return the better values to start with, and how many layers have been reconstructed in them."""
        before, after = (
            self.deciding.noise(self.store(self.form, each).written) for each in (carried, tried)
        )
        if not after < before:
            return carried, 0
        return tried, sum(tried[name] is not self.form.trained[name].start for name in self.form.weights)

    def _noise(self, values: dict[str, Floats]) -> float:
        """Measure values for the bits of the file."""
        return self.judge.noise(self.store(self.form, values).written)

    def _form(self, part: int) -> TrainingForm:
        """Return the form with the bits of one part; that of the last part has the bits of the file."""
        bits = self.options.bits
        return self.form if part + 1 == len(bits) else with_bits(self.form, largest_magnitude(bits[part]))

    def _title(self, part: int) -> str:
        bits = self.options.bits
        return "finetune" if len(bits) == 1 else f"finetune, {bits[part]} bits"

    def _training(self, part: int, steps: int, noise: float, layers: int) -> Training:
        """Return the training of one part; only the last one, with the bits of the file, is judged."""
        options, bits, last = self.options, self.options.bits[part], part + 1 == len(self.options.bits)
        form, schedule = self._form(part), Schedule.of(steps)
        return Training(
            form,
            self.work.gradients(form, options, part, schedule.checks),
            schedule,
            Rates().for_noise(noise).times(options.rate, bits),
            self._noise if last else None,
            self.checkpoint.saver(part, layers),
        )


def _unreachable(state: State) -> str:
    name, reason = next(iter(state.frozen.items()), ("", "no output depends on a trained value"))
    where = f" behind node '{name}'" if name else ""
    return f"no gradient reaches a quantized weight{where}: {reason}: use onnxq quantize"
