"""Finetuning of a quantized model: what is trained on which samples, and whether the result is kept."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from onnxq.comparison.errors import decibels
from onnxq.comparison.feedback import evenly
from onnxq.data.labels import labelled
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds
from onnxq.data.split import scattered
from onnxq.errors import DataError, ModelError
from onnxq.finetune.backward import measure
from onnxq.finetune.batch_gradients import BatchGradients
from onnxq.finetune.checkpoint import Checkpoint
from onnxq.finetune.examples import (
    ACTIVATION_BYTES,
    Batches,
    Examples,
    grouped,
    make_examples,
    most_together,
)
from onnxq.finetune.form import TrainingForm, bias_outputs, training_form, with_bits, with_units
from onnxq.finetune.gradient_job import GradientJob
from onnxq.finetune.gradients import GradientGraph, without_shapes
from onnxq.finetune.reconstruction import reconstructed, sample_count
from onnxq.finetune.trained import Bias, Scale, Weight
from onnxq.finetune.training import Rates, Schedule, State, Training
from onnxq.formats.recipe import Recipe
from onnxq.graph.edit import nodes_of
from onnxq.graph.macs import concrete_shapes, node_macs
from onnxq.options import Effort, FinetuneOptions, Technique
from onnxq.quantization.parameters import Parameters
from onnxq.quantization.weights import largest_magnitude
from onnxq.runtime.inner_values import expose
from onnxq.runtime.machine import available_cores
from onnxq.runtime.parallel import IN_PROCESS, Executor
from onnxq.runtime.sessions import open_fake_quantized, run
from onnxq.search.inputs import Inputs
from onnxq.search.references import OutputNoise, References
from onnxq.search.trial import Check, Finetuning, Outcome
from onnxq.transforms.registry import weight_options
from onnxq.types import Floats

LEAST_SAMPLES = 9
"""Fewer samples leave none to judge by."""
STOPPING, MOST_STOPPING = 10, 24
"""One calibration sample in 10 decides which step is best, at most so many."""
BUDGET, LEAST_STEPS, MOST_STEPS = 6e11, 24, 120
"""MACs of the default number of steps, three times those of an inference for each, and its bounds."""
MOST_RECONSTRUCTING = 200
"""Most samples by which layers are reconstructed."""
CHECKS = 12
"""Checks on samples kept aside during a training."""
LEAST_GAIN_DB = 0.1
"""Least gain for which a result is kept, dB."""
WORST_LOSS_DB = 0.1
"""Loss of the worst part of the outputs that a gain of the others may cost, dB."""
BIAS_UNIT = 1 / 64
"""Unit of a bias, as a share of the deviation of the values that it is added to."""


@dataclass(frozen=True)
class Division:
    """The samples of a training, by their use.

    training  trained on; they calibrate, too
    stopping  decide which step is best; they calibrate, too
    deciding  decide whether the result is kept: those that chose the methods, and the stopping ones
    unseen    report what was gained, and decide nothing
    """

    training: Sequence[Sample]
    stopping: Sequence[Sample]
    deciding: Sequence[Sample]
    unseen: Sequence[Sample]


def divided(inputs: Inputs) -> Division:
    """Divide the samples; the search sees the same as without a training.

    Raises:
        DataError: there are too few samples.
    """
    samples, starts = inputs.samples, inputs.feedback.starts if inputs.feedback.states else None
    firsts = [i for i, each in enumerate(samples.calibration) if starts is None or each.name in starts]
    parts = [samples.calibration[i:j] for i, j in pairwise([*firsts, len(samples.calibration)])]
    count = min(MOST_STOPPING, max(1, len(parts) // STOPPING))
    chosen = scattered(len(parts), count)
    stopping = [each for i, part in enumerate(parts) if i in chosen for each in part]
    training = [each for i, part in enumerate(parts) if i not in chosen for each in part]
    if not training or not samples.unseen or len(samples.validation) < 2:
        raise DataError(
            f"{len(samples.every)} samples are too few to finetune and to judge the result: "
            f"give at least {LEAST_SAMPLES}"
        )
    return Division(training, stopping, [*samples.validation, *stopping], samples.unseen)


def trained_on(inputs: Inputs, recipe: Recipe) -> frozenset[str]:
    """Return the names of the samples that the weights of a recipe were trained on."""
    trained = Technique.FINETUNING in recipe.techniques
    return frozenset(sample.name for sample in inputs.samples.calibration) if trained else frozenset()


def tunes_by_itself(inputs: Inputs) -> bool:
    """Tell whether finetuning is one of the techniques that the options try, and there are samples for it."""
    options = inputs.options
    wanted = options.effort is Effort.BEST and Technique.FINETUNING not in options.without
    samples = inputs.samples
    enough = len(samples.calibration) > 1 and len(samples.validation) > 1 and bool(samples.unseen)
    return wanted and enough and not inputs.feedback.states and not inputs.large


def tuned(inputs: Inputs, outcome: Outcome, options: FinetuneOptions | None) -> tuple[Outcome, Finetuning]:
    """Finetune as the user asks; without options as one technique of several, which may be impossible.

    Raises:
        OnnxqError: the user asks for it, and it is impossible.
    """
    try:
        return finetuned(inputs, outcome, options or FinetuneOptions())
    except ModelError as error:
        if options is not None:
            raise
        return outcome, Finetuning(False, str(error))


def finetuned(inputs: Inputs, outcome: Outcome, options: FinetuneOptions) -> tuple[Outcome, Finetuning]:
    """Train the quantized model of an outcome; return the better of both, and what was done.

    Raises:
        OnnxqError: nothing can be trained, a label does not fit, or the checkpoint is another training's.
    """
    recipe = outcome.choice.recipe
    if inputs.large:
        raise ModelError(f"{inputs.options.model}: too large to be finetuned: use onnxq quantize")
    form = training_form(recipe, outcome.parameters, weight_options(inputs.options, inputs.target.saturates))
    if not any(isinstance(each, Weight) for each in form.trained.values()):
        return outcome, Finetuning(False, "the file has no integer weights to train", bits=options.bits)
    # the examples
    division = divided(inputs)
    samples = division.training
    examples = make_examples(inputs, form, samples, _labels(samples, options.labels), options)
    shapes = measure(form.model, examples.example(0).feeds | form.fed(form.start())).shapes
    room = max(1, ACTIVATION_BYTES // max(1, sum(4 * math.prod(shape) for shape in shapes.values())))
    together = most_together(examples, room)
    batches = Batches(examples, min(options.batch, len(samples)), options.micro_batches, options.seed)
    form = with_units(form, _bias_units(form, batches, together))
    # the training
    judge = _Judge.of(inputs, recipe, division.stopping)
    steps = options.steps or default_steps(inputs, samples[0], batches.size)
    decisions = replace(options, checkpoint=None), replace(inputs.options, output=None, force=False), steps
    statistics = outcome.statistics
    checkpoint = Checkpoint.of(options.checkpoint, statistics.model, statistics.data, *decisions)
    start = judge.noise(outcome.parameters)
    work = _Work(inputs.executor, batches, together, room)
    trainer = _Trainer(form, work, steps, options, judge, start, checkpoint)
    result = trainer.run(lambda: _reconstructed(form, examples, shapes, options.memory))
    # whether to keep it
    parameters = form.updated(result.state.best)
    before, after = _Judge.of(inputs, recipe, division.deciding).compared(outcome.parameters, parameters)
    kept, reason = _verdict(before, after, start, result.state)
    before, after = _Judge.of(inputs, recipe, division.unseen).compared(outcome.parameters, parameters)
    reached = [form.trained[name] for name in result.state.reached]
    weights, biases, scales = (
        sum(isinstance(each, kind) for each in reached) for kind in (Weight, Bias, Scale)
    )
    finetuning = Finetuning(
        kept, reason, result.steps, batches.size, options.bits, len(samples), weights, biases,
        scales,
        [Check(step, decibels(noise)) for step, noise in result.state.checks],
        decibels(before.mean_noise), decibels(after.mean_noise), dict(result.state.frozen),
        result.state.interrupted, result.layers,
    )  # fmt: skip
    if not kept:
        return outcome, finetuning
    written = inputs.writer().write(recipe, parameters)
    recipe = replace(recipe, techniques=(*recipe.techniques, Technique.FINETUNING))
    choice = replace(outcome.choice, recipe=recipe)
    return replace(outcome, written=written, choice=choice, parameters=parameters), finetuning


@dataclass(frozen=True, eq=False)
class _Judge:
    """Measurement of parameters in the runtime's integer kernels, on samples kept aside."""

    inputs: Inputs
    recipe: Recipe
    references: References

    @staticmethod
    def of(inputs: Inputs, recipe: Recipe, samples: Sequence[Sample]) -> "_Judge":
        """Run the float model on the samples."""
        return _Judge(inputs, recipe, References.of(inputs.model, samples, [], inputs.specs, inputs.feedback))

    def measure(self, parameters: Parameters) -> OutputNoise:
        """Measure the noise of the outputs."""
        model = self.inputs.writer().write(self.recipe, parameters)
        return self.references.measure_before_softmax(model)

    def compared(self, before: Parameters, after: Parameters) -> tuple[OutputNoise, OutputNoise]:
        """Measure two sets of parameters."""
        return self.measure(before), self.measure(after)

    def noise(self, parameters: Parameters) -> float:
        """Return noise / signal of the outputs, mean over their parts."""
        return self.measure(parameters).mean_noise


@dataclass(frozen=True, eq=False)
class _Result:
    """The end of a training.

    state   the last state
    steps   steps of all parts
    layers  layers that were reconstructed before
    """

    state: State
    steps: int
    layers: int


@dataclass(frozen=True, eq=False)
class _Work:
    """What computes gradients.

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
class _Trainer:
    """A training through all parts of a schedule of bits; `noise` is noise / signal before it."""

    form: TrainingForm
    work: _Work
    steps: int
    options: FinetuneOptions
    judge: _Judge
    noise: float
    checkpoint: Checkpoint

    def run(self, reconstruct: Callable[[], dict[str, Floats]]) -> _Result:
        """Train, or go on from the checkpoint.

        Args:
            reconstruct: returns other values for the bits of the file, which may be better to start with.

        Raises:
            ModelError: the loss depends on no quantized weight.
        """
        found = self.checkpoint.load()
        first, resumed = found if found is not None else (0, None)
        each = max(1, self.steps // len(self.options.bits))
        values: Mapping[str, Floats] | None = None
        done, layers = first * each, 0
        for part in range(first, len(self.options.bits)):
            form, noise = self._form(part), self.noise
            begin = form.carried(values)
            if resumed is not None and resumed.checks:
                noise = resumed.checks[0][1]
            elif form is self.form:
                tried = reconstruct()
                (noise, better) = min((self._noise(begin), False), (self._noise(tried), True))
                begin = tried if better else begin
                layers = better * sum(tried[name] is not form.trained[name].start for name in form.weights)
            training = self._training(part, each, noise)
            state = training.run(resumed or training.begin(begin), self._title(part))
            resumed, done, values = None, done + state.step, training.form.real(state.values)
            if state.step and not state.reached:
                raise ModelError(_unreachable(state))
            if state.interrupted and part + 1 < len(self.options.bits):
                # nothing was trained with the bits of the file
                state = replace(state, best=self.form.start(), noise=math.inf, checks=())
                break
        return _Result(state, done, layers)

    def _noise(self, values: dict[str, Floats]) -> float:
        """Measure values for the bits of the file."""
        return self.judge.noise(self.form.updated(values))

    def _form(self, part: int) -> TrainingForm:
        """Return the form with the bits of one part; that of the last part has the bits of the file."""
        bits = self.options.bits
        return self.form if part + 1 == len(bits) else with_bits(self.form, largest_magnitude(bits[part]))

    def _title(self, part: int) -> str:
        bits = self.options.bits
        return "finetune" if len(bits) == 1 else f"finetune, {bits[part]} bits"

    def _training(self, part: int, steps: int, noise: float) -> Training:
        """Return the training of one part; only the last one, with the bits of the file, is judged."""
        options, bits, last = self.options, self.options.bits[part], part + 1 == len(self.options.bits)
        form, checks = self._form(part), max(1, steps // CHECKS)
        return Training(
            form,
            self.work.gradients(form, options, part, checks),
            Schedule(steps, checks if last else steps),
            Rates().for_noise(noise).times(options.rate, bits),
            self._noise if last else None,
            self.checkpoint.saver(part),
        )


def _unreachable(state: State) -> str:
    name, reason = next(iter(state.frozen.items()), ("", "no output depends on a trained value"))
    where = f" behind node '{name}'" if name else ""
    return f"no gradient reaches a quantized weight{where}: {reason}: use onnxq quantize"


def _verdict(before: OutputNoise, after: OutputNoise, start: float, state: State) -> tuple[bool, str]:
    """Tell whether the trained values are kept, and why.

    Args:
        before: on the samples that decide, with the values before the training.
        after: with the trained values.
        start: noise / signal before the training on the samples that chose the step.
        state: the training.
    """
    if not state.noise < start:
        return False, "no step came closer to float on the samples kept aside"
    if not decibels(after.mean_noise) > decibels(before.mean_noise) + LEAST_GAIN_DB:
        return False, "it came no closer to float on the samples that decide"
    if after.sqnr_db < before.sqnr_db - WORST_LOSS_DB:
        return False, "its worst output came farther from float on the samples that decide"
    return True, "it is closer to float on samples that nothing was trained on"


def _reconstructed(
    form: TrainingForm, examples: Examples, shapes: Mapping[str, Sequence[int]], memory: int
) -> dict[str, Floats]:
    """Reconstruct the layers of a form on as many samples as fit into memory."""
    count = min(MOST_RECONSTRUCTING, len(examples.samples), sample_count(form, shapes, memory))
    chosen = evenly(range(len(examples.samples)), count)
    return reconstructed(form, [examples.teacher.sample(i, examples.samples[i])[0] for i in chosen])


def _labels(samples: Sequence[Sample], labels: str | None) -> list[int | None]:
    """Return the class of each sample, None for one without a label; empty without labels.

    Raises:
        DataError: the labels cannot be read, are no classes, or belong to none of the samples.
    """
    if labels is None:
        return []
    found: dict[str, int] = {}
    for sample in labelled(list(samples), labels, every=False):
        if sample.label:
            try:
                found[sample.name] = int(sample.label)
            except ValueError as error:
                raise DataError(
                    f"sample {sample.name}: label '{sample.label}' is no number of a class: correct it"
                ) from error
    return [found.get(sample.name) for sample in samples]


def default_steps(inputs: Inputs, sample: Sample, batch: int) -> int:
    """Return the number of steps that a model of this size is worth: about as many seconds for any."""
    shapes = concrete_shapes(inputs.model, check_feeds(sample, inputs.specs))
    macs = sum(node_macs(node, shapes) for node in nodes_of(inputs.model))
    return int(np.clip(BUDGET / (3 * max(macs, 1) * batch), LEAST_STEPS, MOST_STEPS))


def _bias_units(form: TrainingForm, batches: Batches, together: int) -> dict[str, Floats]:
    """Return the unit of each bias: a share of the deviation of the values that it is added to."""
    places = bias_outputs(form)
    if not places:
        return {}
    examples = [batches.examples.example(index) for index in batches.indices(0)]
    example, _ = next(grouped(examples, together))
    exposed = expose(form.model, list(dict.fromkeys(places.values())))
    session = open_fake_quantized(without_shapes(exposed.model, example.feeds))
    names = [name for name, _ in exposed.outputs.values()]
    arrays = run(session, example.feeds | form.fed(form.start()), "of a batch", names)
    deviations = {
        name: max(float(np.std(array, dtype=np.float64)), 1e-6)
        for name, array in zip(exposed.outputs, arrays, strict=True)
    }
    return {name: np.asarray(BIAS_UNIT * deviations[place], np.float32) for name, place in places.items()}
