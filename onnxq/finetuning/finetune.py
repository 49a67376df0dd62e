"""Finetuning of a quantized model: from an outcome to the better of two."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from onnxq.comparison.errors import decibels
from onnxq.comparison.feedback import evenly
from onnxq.data.labels import labelled
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds
from onnxq.errors import DataError, ModelError, OnnxqError
from onnxq.finetuning.backward import measure
from onnxq.finetuning.block_form import block_form, with_blocks
from onnxq.finetuning.checkpoint import Checkpoint
from onnxq.finetuning.division import divided
from onnxq.finetuning.examples import (
    ACTIVATION_BYTES,
    Batches,
    Examples,
    check_images,
    grouped,
    make_examples,
    most_together,
)
from onnxq.finetuning.form import TrainingForm, bias_outputs, with_units
from onnxq.finetuning.gradients import without_shapes
from onnxq.finetuning.integer_form import training_form, updated
from onnxq.finetuning.judge import ENOUGH_DECIDING, ENOUGH_SAMPLES, Judge, verdict
from onnxq.finetuning.reconstruction import reconstructed, sample_count
from onnxq.finetuning.trained import Bias, Scale, Values
from onnxq.finetuning.trained_weights import Weight
from onnxq.finetuning.trainer import Store, Trainer, Work
from onnxq.finetuning.training import State
from onnxq.graph.edit import nodes_of
from onnxq.graph.macs import concrete_shapes, node_macs
from onnxq.options import Effort, FinetuneOptions, Mode, Technique
from onnxq.runtime.inner_values import expose
from onnxq.runtime.sessions import open_fake_quantized, run
from onnxq.search.inputs import Inputs
from onnxq.search.trial import Check, Finetuning, Outcome
from onnxq.transforms.registry import weight_options
from onnxq.types import Floats

BUDGET, LEAST_STEPS, MOST_STEPS = 6e11, 24, 120
"""MACs of the default number of steps, three times those of an inference for each, and its bounds."""
SHOWN = 40
"""Most characters of a label in a message."""
MOST_RECONSTRUCTING = 200
"""Most samples by which layers are reconstructed."""
BIAS_UNIT = 1 / 64
"""Unit of a bias, as a share of the deviation of the values that it is added to."""


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
    form, store = _opened(inputs, outcome)
    if not any(isinstance(each, Weight) for each in form.trained.values()):
        return outcome, Finetuning(False, "the file has no integer weights to train", bits=options.bits)
    # the examples
    division = divided(inputs)
    samples, labels = division.training, read_labels(inputs, options)
    examples = make_examples(inputs, form, samples, labels, options)
    shapes = measure(form.model, examples.example(0).feeds | form.fed(form.start())).shapes
    room = max(1, ACTIVATION_BYTES // max(1, sum(4 * math.prod(shape) for shape in shapes.values())))
    together = most_together(examples, room)
    batches = Batches(examples, min(options.batch, len(samples)), options.micro_batches, options.seed)
    form = with_units(form, _bias_units(form, batches, together))
    # the training
    judge, deciding = Judge.of(inputs, division.stopping), Judge.of(inputs, division.deciding)
    steps = options.steps or default_steps(inputs, samples[0], batches.size)
    digests = outcome.statistics.model, outcome.statistics.data
    names = [sample.name for sample in inputs.samples.every]
    decisions = replace(options, checkpoint=None, labels=None, memory=0), labels, names, steps
    checkpoint = Checkpoint.of(options.checkpoint, form.start(), *digests, *decisions)
    work = Work(inputs.executor, batches, together, room)
    trainer = Trainer(form, store, work, steps, options, judge, deciding, checkpoint)
    result = trainer.run(lambda: _reconstructed(form, examples, shapes, options.memory))
    # whether to keep it
    better = store(form, result.state.best)
    before, after = deciding.compared(outcome.written, better.written)
    kept, reason = verdict(before, after)
    before, after = Judge.of(inputs, division.unseen).compared(outcome.written, better.written)
    finetuning = Finetuning(
        kept, reason, result.steps, batches.size, options.bits, len(samples), *_reached(form, result.state),
        [Check(step, decibels(noise)) for step, noise in result.state.checks],
        decibels(before.mean_noise), decibels(after.mean_noise), dict(result.state.frozen),
        result.state.interrupted, result.layers, sum(label is not None for label in labels),
        len(division.unseen),
    )  # fmt: skip
    if not kept:
        return outcome, finetuning
    recipe = replace(recipe, techniques=(*recipe.techniques, Technique.FINETUNING))
    warnings, count = outcome.choice.warnings, len(division.deciding)
    if count < ENOUGH_DECIDING:
        message = (
            f"only {count} samples chose the trained file, which may be chance: give {ENOUGH_SAMPLES} or more"
        )
        warnings = (*warnings, message)
    return replace(better, choice=replace(outcome.choice, recipe=recipe, warnings=warnings)), finetuning


def _opened(inputs: Inputs, outcome: Outcome) -> tuple[TrainingForm, Store]:
    """Return the training form of an outcome, and the function that stores trained values in it."""
    recipe = outcome.choice.recipe
    if inputs.options.mode == Mode.WEIGHTS:
        return block_form(recipe, outcome.written), partial(with_blocks, outcome)

    def store(form: TrainingForm, values: Values) -> Outcome:
        parameters = updated(form, values)
        written = inputs.writer().write(recipe, parameters)
        return replace(outcome, written=written, parameters=parameters)

    options = weight_options(inputs.options, inputs.target.saturates)
    return training_form(recipe, outcome.parameters, options), store


def _reached(form: TrainingForm, state: State) -> tuple[int, int, int]:
    """Return the number of weights, biases and scales of activations that the loss depends on."""
    found = [form.trained[name] for name in state.reached]
    weights, biases, scales = (
        sum(isinstance(each, kind) for each in found) for kind in (Weight, Bias, Scale)
    )
    return weights, biases, scales


def _reconstructed(
    form: TrainingForm, examples: Examples, shapes: Mapping[str, Sequence[int]], memory: int
) -> dict[str, Floats]:
    """Reconstruct the layers of a form on as many samples as fit into memory."""
    count = min(MOST_RECONSTRUCTING, len(examples.samples), sample_count(form, shapes, memory))
    chosen = evenly(range(len(examples.samples)), count)
    return reconstructed(form, [examples.teacher.sample(i, examples.samples[i])[0] for i in chosen])


def check_tuning(inputs: Inputs, options: FinetuneOptions) -> None:
    """Check before all work what the options and samples alone can show.

    Raises:
        OnnxqError: the samples are too few, a label or an option does not fit.
    """
    samples = divided(inputs).training
    read_labels(inputs, options)
    if options.steps is not None and options.steps < len(options.bits):
        raise OnnxqError(
            f"--steps {options.steps}: --bits {','.join(map(str, options.bits))} has {len(options.bits)} "
            "parts, each of one step or more: give more steps"
        )
    if options.augment:
        check_images(inputs, samples[0])


def read_labels(inputs: Inputs, options: FinetuneOptions) -> list[int | None]:
    """Return the class of each sample that is trained on, None for one without a label; empty without labels.

    Raises:
        DataError: the labels cannot be read, are no classes, or belong to none of the samples.
    """
    if options.labels is None:
        return []
    samples, found = divided(inputs).training, dict[str, int]()
    names = frozenset(inputs.samples.names)
    for sample in labelled(list(samples), options.labels, names=names, every=False):
        if sample.label:
            try:
                found[sample.name] = int(sample.label[: SHOWN + 1])
            except ValueError as error:
                shown = sample.label if len(sample.label) <= SHOWN else f"{sample.label[:SHOWN]}..."
                raise DataError(
                    f"sample {sample.name}: label '{shown}' is no number of a class: correct it"
                ) from error
    if not found:
        raise DataError(
            f"--labels {options.labels}: none of the {len(samples)} samples that are trained on has a label: "
            "label more samples, or leave --labels out"
        )
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
        name: max(float(np.std(array[np.isfinite(array)], dtype=np.float64)), 1e-6)
        for name, array in zip(exposed.outputs, arrays, strict=True)
        if np.isfinite(array).any()
    }
    return {
        name: np.asarray(BIAS_UNIT * deviations.get(place, 1.0), np.float32) for name, place in places.items()
    }
