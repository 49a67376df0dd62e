"""Finetuning of a quantized model: what is trained on which samples, and whether the result is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxq.comparison.errors import decibels
from onnxq.data.labels import labelled
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds
from onnxq.errors import DataError, ModelError
from onnxq.finetune.checkpoint import Checkpoint
from onnxq.finetune.examples import Batches, Examples, make_examples, runs_together
from onnxq.finetune.form import Bias, TrainingForm, Weight, bias_outputs, training_form, with_bits, with_units
from onnxq.finetune.gradients import GradientGraph, without_shapes
from onnxq.finetune.training import Rates, Schedule, State, Training
from onnxq.formats.recipe import Recipe
from onnxq.graph.edit import nodes_of
from onnxq.graph.macs import concrete_shapes, node_macs
from onnxq.options import FinetuneOptions
from onnxq.quantization.parameters import Parameters
from onnxq.quantization.weights import largest_magnitude
from onnxq.runtime.inner_values import expose
from onnxq.runtime.sessions import open_fake_quantized, run
from onnxq.search.inputs import Inputs
from onnxq.search.references import OutputNoise, References
from onnxq.search.trial import Outcome
from onnxq.transforms.registry import weight_options
from onnxq.types import Floats

LEAST_SAMPLES = 9
"""Fewer samples leave none to judge by."""
BUDGET, LEAST_STEPS, MOST_STEPS = 1.2e12, 60, 300
"""MACs of the default number of steps, three times those of an inference for each, and its bounds."""
CHECKS = 12
"""Checks on samples kept aside during a training."""
WORST_LOSS_DB = 0.1
"""Loss of the worst part of the outputs that a gain of the others may cost, dB."""
BIAS_UNIT = 1 / 64
"""Unit of a bias, as a share of the deviation of the values that it is added to."""


@dataclass(frozen=True)
class Aside:
    """Samples that neither calibration nor the choice of methods sees.

    stopping  decide when to stop, and which step is best
    deciding  decide whether the result is kept; nothing else uses them
    """

    stopping: Sequence[Sample]
    deciding: Sequence[Sample]


@dataclass(frozen=True)
class Check:
    """One check of a training: SQNR of the outputs on the samples kept aside, mean over their parts, dB."""

    step: int
    sqnr_db: float


@dataclass(frozen=True)
class Finetuning:
    """What finetuning did.

    kept           whether the file holds the trained values
    reason         why, in words
    steps          steps done, over all parts of the schedule
    batch          samples per step
    bits           bits of the weights in each part of the schedule
    samples        samples trained on
    weights, biases, scales  trained tensors of each kind
    checks         checks on samples kept aside, in the last part of the schedule
    before_db, after_db      SQNR on the samples that decide, before and after, dB
    frozen         nodes behind which gradients end, with the reason
    interrupted    whether the user ended the training
    """

    kept: bool
    reason: str
    steps: int
    batch: int
    bits: tuple[int, ...]
    samples: int
    weights: int
    biases: int
    scales: int
    checks: list[Check] = field(default_factory=list)
    before_db: float | None = None
    after_db: float | None = None
    frozen: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


def set_aside(inputs: Inputs) -> tuple[Inputs, Aside]:
    """Take half of the validation samples, and the unseen ones, away from the search.

    Raises:
        DataError: there are too few samples.
    """
    samples, starts = inputs.samples, inputs.feedback.starts if inputs.feedback.states else None
    stopping: list[Sample] = []
    kept: list[Sample] = []
    number = -1
    for sample in samples.validation:
        number += starts is None or sample.name in starts
        (stopping if number % 2 else kept).append(sample)
    if not stopping or not samples.unseen:
        raise DataError(
            f"{len(samples.every)} samples are too few to finetune and to judge the result: "
            f"give at least {LEAST_SAMPLES}"
        )
    return replace(inputs, samples=replace(samples, validation=kept)), Aside(stopping, samples.unseen)


def finetuned(
    inputs: Inputs, aside: Aside, outcome: Outcome, options: FinetuneOptions
) -> tuple[Outcome, Finetuning]:
    """Train the quantized model of an outcome; return the better of both, and what was done.

    Raises:
        OnnxqError: nothing can be trained, a label does not fit, or the checkpoint is another training's.
    """
    recipe = outcome.choice.recipe
    samples = [
        *inputs.samples.calibration,
        *(s for s in inputs.samples.validation if s not in inputs.samples.calibration),
    ]
    form = training_form(recipe, outcome.parameters, weight_options(inputs.options))
    if not form.trained:
        return outcome, Finetuning(False, "the file has no integer weights", 0, 0, options.bits, 0, 0, 0, 0)
    labels = _labels(samples, options.labels)
    examples = make_examples(inputs, samples, labels, options.label_share, options.memory)
    batches = Batches(examples, min(options.batch, len(samples)), runs_together(examples), options.seed)
    form = with_units(form, _bias_units(form, batches))
    steps = options.steps or default_steps(inputs, samples[0], batches.size)
    judge = _Judge(
        inputs, recipe, References.of(inputs.model, aside.stopping, [], inputs.specs, inputs.feedback)
    )
    checkpoint = Checkpoint.of(
        options.checkpoint, outcome.statistics.model, outcome.statistics.data, replace(options, checkpoint=None),
        replace(inputs.options, output=None, force=False), steps,
    )  # fmt: skip
    state, graph, done = _trained(form, examples, batches, steps, options, judge, checkpoint)
    # whether to keep it
    parameters = form.updated(state.best)
    deciding = References.of(inputs.model, aside.deciding, [], inputs.specs, inputs.feedback)
    writer = inputs.writer()
    before = deciding.measure_before_softmax(outcome.written)
    after = deciding.measure_before_softmax(writer.write(recipe, parameters))
    start = judge.noise(outcome.parameters)
    kept, reason = _verdict(before, after, start, state)
    counts = [
        sum(isinstance(each, kind) for name, each in form.trained.items() if name in graph.reached)
        for kind in (Weight, Bias)
    ]
    finetuning = Finetuning(
        kept, reason, done, batches.size, options.bits, len(samples), *counts,
        len(graph.reached) - sum(counts),
        [Check(step, decibels(noise)) for step, noise in state.checks],
        decibels(before.mean_noise), decibels(after.mean_noise), graph.frozen, state.interrupted,
    )  # fmt: skip
    if not kept:
        return outcome, finetuning
    return replace(outcome, written=writer.write(recipe, parameters), parameters=parameters), finetuning


@dataclass(frozen=True, eq=False)
class _Judge:
    """Measurement of trained values in the runtime's integer kernels, on samples kept aside."""

    inputs: Inputs
    recipe: Recipe
    references: References

    def noise(self, parameters: Parameters) -> float:
        """Return noise / signal of the outputs, mean over their parts."""
        return self.references.measure_before_softmax(
            self.inputs.writer().write(self.recipe, parameters)
        ).mean_noise


def _trained(
    form: TrainingForm,
    examples: Examples,
    batches: Batches,
    steps: int,
    options: FinetuneOptions,
    judge: _Judge,
    checkpoint: Checkpoint,
) -> tuple[State, GradientGraph, int]:
    """Train through all parts of the schedule; return the last state, its graph and the number of steps."""
    found = checkpoint.load()
    first, resumed = found if found is not None else (0, None)
    values: Mapping[str, Floats] | None = None
    done, last = 0, len(options.bits) - 1
    rates = Rates()
    for part, bits in enumerate(options.bits):
        each = max(1, steps // len(options.bits))
        if part < first:
            done += each
            continue
        own = with_bits(form, largest_magnitude(bits)) if part < last else form
        graph = GradientGraph(own, examples.observation, examples.points)
        training = Training(
            own,
            graph,
            replace(batches, seed=options.seed + part),
            Schedule(each, max(1, each // CHECKS) if part == last else each),
            rates.times(options.rate, bits),
            (lambda chosen: judge.noise(form.updated(chosen))) if part == last else None,
            options.gradient_bits,
            options.seed + part,
            checkpoint.saver(part),
        )
        state = resumed if resumed is not None and part == first else training.begin(own.carried(values))
        state = training.run(state, f"finetune {bits} bits" if last else "finetune")
        if not graph.reached and state.step:
            raise ModelError(_unreachable(graph))
        done, values = done + state.step, own.real(state.values)
        if state.interrupted and part < last:
            # nothing was trained with the bits of the file: keep what it began with
            state = replace(state, best=form.start(), noise=float("inf"), checks=())
            break
    return state, graph, done


def _unreachable(graph: GradientGraph) -> str:
    name, reason = next(iter(graph.frozen.items()), ("", "no output depends on a trained value"))
    where = f" at node '{name}'" if name else ""
    return f"no gradient reaches a quantized weight{where}: {reason}: quantize it without finetuning"


def _verdict(before: OutputNoise, after: OutputNoise, start: float, state: State) -> tuple[bool, str]:
    """Tell whether the trained values are kept, and why."""
    if not state.noise < start:
        return False, "no step came closer to float on the samples kept aside"
    if not after.mean_noise < before.mean_noise:
        return False, "it came no closer to float on the samples that decide"
    if after.sqnr_db < before.sqnr_db - WORST_LOSS_DB:
        return False, "its worst output came farther from float on the samples that decide"
    return True, "it is closer to float on samples that nothing was trained on"


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
                    f"sample {sample.name}: label '{sample.label}' is no class: finetuning takes numbers of classes"
                ) from error
    return [found.get(sample.name) for sample in samples]


def default_steps(inputs: Inputs, sample: Sample, batch: int) -> int:
    """Return the number of steps that a model of this size is worth: about as many seconds for any."""
    shapes = concrete_shapes(inputs.model, check_feeds(sample, inputs.specs))
    macs = sum(node_macs(node, shapes) for node in nodes_of(inputs.model))
    return int(np.clip(BUDGET / (3 * max(macs, 1) * batch), LEAST_STEPS, MOST_STEPS))


def _bias_units(form: TrainingForm, batches: Batches) -> dict[str, Floats]:
    """Return the unit of each bias: a share of the deviation of the values that it is added to, in one batch."""
    places = bias_outputs(form)
    if not places:
        return {}
    example, _ = next(batches.of(0))
    exposed = expose(form.model, list(dict.fromkeys(places.values())))
    session = open_fake_quantized(without_shapes(exposed.model, example.feeds))
    names = [name for name, _ in exposed.outputs.values()]
    arrays = run(session, example.feeds | form.fed(form.start()), "of a batch", names)
    deviation = {
        name: float(np.std(array, dtype=np.float64))
        for name, array in zip(exposed.outputs, arrays, strict=True)
    }
    return {
        name: np.asarray(BIAS_UNIT * max(deviation[place], 1e-6), np.float32)
        for name, place in places.items()
    }
