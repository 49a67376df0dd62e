"""Examples: samples with the float model's values as targets, and the batches of a training."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import onnxruntime as ort

from onnxq.comparison.feedback import Feedback
from onnxq.comparison.observation import Observation, Observed, Opened, observe
from onnxq.data.labels import FOLDERS, class_folders
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds
from onnxq.errors import DataError, ModelError
from onnxq.finetuning.features import find_features
from onnxq.finetuning.form import TrainingForm
from onnxq.finetuning.gradients import Example, is_stackable, stacked
from onnxq.finetuning.loss import Point, feature_points, points_of, target_of
from onnxq.graph.macs import concrete_shapes
from onnxq.options import FinetuneOptions
from onnxq.runtime.sessions import InputSpec, open_session, run
from onnxq.search.inputs import Inputs
from onnxq.techniques.augmentation import CHANNELS, LEAST_SIZE, Change, changed, image_axes
from onnxq.types import Array, Feeds

SEEN = 16
"""Samples whose values show the size of the signal."""
ACTIVATION_BYTES = 400 << 20
"""Bytes of the values of the forward pass that samples which run at a time may have."""


@dataclass(eq=False)
class Teacher:
    """The float model, and the feeds of the samples of a stateful model with the states before each.

    opened   the float model with the compared values among its outputs, inner ones last
    specs    its inputs
    inner    number of inner values
    stated   feeds and compared values by the index of the sample; empty without states
    threads  threads of its session, 0 for the runtime's choice
    """

    opened: Opened
    specs: list[InputSpec]
    inner: int = 0
    stated: dict[int, tuple[Feeds, Sequence[Array]]] = field(default_factory=dict)
    threads: int = 0

    def __reduce__(self) -> tuple[object, ...]:
        """Open a session of one thread in another process, a worker."""
        return Teacher, (self.opened, self.specs, self.inner, self.stated, 1)

    @cached_property
    def session(self) -> ort.InferenceSession:
        """The open model."""
        return open_session(self.opened.model, threads=self.threads)

    def run(self, name: str, feeds: Feeds) -> Sequence[Array]:
        """Run the float model; return its values at the taps, then the inner ones."""
        return self._values(run(self.session, feeds, name))

    def _values(self, values: Sequence[Array]) -> Sequence[Array]:
        return [*Observed.of(self.opened, values).inner, *values[len(values) - self.inner :]]

    def sample(self, index: int, sample: Sample) -> tuple[Feeds, Sequence[Array]]:
        """Return the feeds of a sample and the float model's values at the taps."""
        if index in self.stated:
            return self.stated[index]
        feeds = check_feeds(sample, self.specs)
        return feeds, self.run(sample.name, feeds)

    def remember_states(self, samples: Sequence[Sample], feedback: Feedback) -> None:
        """Run sequences, and keep the feeds of each sample with the states before it."""
        kept: Sequence[Array] | None = None
        for index, sample in enumerate(samples):
            feeds = feedback.feeds(sample.name, check_feeds(sample, self.specs), kept)
            values = run(self.session, feeds, sample.name)
            self.stated[index] = feeds, self._values(values)
            kept = values[: self.opened.own]


@dataclass(eq=False)
class Cache:
    """Examples by the index of the sample, up to a number of bytes."""

    limit: int
    kept: dict[int, Example] = field(default_factory=dict)
    size: int = 0

    def __reduce__(self) -> tuple[object, ...]:
        """Start empty in another process."""
        return Cache, (self.limit,)

    def offer(self, index: int, example: Example) -> None:
        """Keep an example if there is room."""
        size = sum(array.nbytes for array in (*example.feeds.values(), *example.targets))
        if index not in self.kept and self.size + size <= self.limit:
            self.kept[index] = example
            self.size += size


@dataclass(frozen=True, eq=False)
class Examples:
    """Samples for training, with the float model as teacher.

    samples      the samples by index, those that this process knows
    teacher      the float model
    observation  compared values
    points       what the loss compares
    labels       class of each sample, None for one without; empty without labels
    options      share of the labels, and augmentation
    cache        examples that are kept
    """

    samples: Mapping[int, Sample]
    teacher: Teacher
    observation: Observation
    points: Sequence[Point]
    labels: Sequence[int | None]
    options: FinetuneOptions
    cache: Cache

    def __reduce__(self) -> tuple[object, ...]:
        """Leave out the samples, which travel with the work on them."""
        values = self.teacher, self.observation, self.points, self.labels, self.options, self.cache
        return Examples, ({}, *values)

    def having(self, samples: Mapping[int, Sample]) -> "Examples":
        """Return the examples with more samples; both keep the same ones."""
        return replace(self, samples={**self.samples, **samples})

    def has(self, index: int) -> bool:
        """Whether this process can make an example of a sample."""
        return index in self.samples or self.keeps(index)

    def keeps(self, index: int) -> bool:
        """Whether this process keeps the example of a sample."""
        return index in self.cache.kept

    def example(self, index: int) -> Example:
        """Return one sample with its targets."""
        known = self.cache.kept.get(index)
        if known is not None:
            return known
        feeds, values = self.teacher.sample(index, self.samples[index])
        example = self._targeted(feeds, values, index)
        self.cache.offer(index, example)
        return example

    def drawn(self, indices: Sequence[int], partners: Sequence[int], seed: Sequence[int]) -> list[Example]:
        """Return samples with their targets, changed at random where each has a partner to be mixed with."""
        if not partners:
            return [self.example(index) for index in indices]
        rng = np.random.default_rng(seed)
        return [
            self._changed(index, partner, Change.draw(rng))
            for index, partner in zip(indices, partners, strict=True)
        ]

    def _changed(self, index: int, partner: int, change: Change) -> Example:
        example, other = self.example(index), self.example(partner).feeds
        feeds = dict(example.feeds)
        for name, array in example.feeds.items():
            if image_axes(array) is not None:
                # a mixture has no label of its own
                alike = not self.labels and other[name].shape == array.shape
                feeds[name] = changed(array, change, other[name] if alike else None)
        return self._targeted(feeds, self.teacher.run(f"sample {index}, augmented", feeds), index)

    def _targeted(self, feeds: Feeds, values: Sequence[Array], index: int) -> Example:
        """Return feeds with their targets, from the float model's values."""
        label, share = self.labels[index] if self.labels else None, self.options.label_share
        deciding = next((point for point in self.points if point.axis is not None), None)
        return Example(
            feeds,
            [
                target_of(point, values[point.tap], label if point is deciding else None, share)
                for point in self.points
            ],
        )


def make_examples(
    inputs: Inputs,
    form: TrainingForm,
    samples: Sequence[Sample],
    labels: Sequence[int | None],
    options: FinetuneOptions,
) -> Examples:
    """Find what the loss compares, and return the examples of a training.

    Raises:
        ModelError: no output holds float values.
        DataError: a label is no class of the model.
    """
    # inner values are those of the form that is quantized
    model, feedback = form.recipe.model, inputs.feedback
    seen = [check_feeds(sample, inputs.specs) for sample in samples[:SEEN]]
    observation = observe(model, seen, feedback)
    features = find_features(model, form.rounded, concrete_shapes(model, seen[0]))
    opened = Opened.of(model.clone(), observation)  # the form itself gets no more outputs
    by_name = {value.name: value for node in opened.model.graph for value in node.outputs}
    opened.model.graph.outputs.extend(by_name[name] for name in features)
    teacher = Teacher(opened, inputs.specs, len(features))
    targets = [teacher.run(sample.name, feeds) for sample, feeds in zip(samples, seen, strict=False)]
    points = points_of(model, observation, targets, options.label_share if labels else 0.0)
    if not points:
        raise ModelError(f"{inputs.options.model}: no output holds float values: nothing can be compared")
    points += feature_points([form.rounded[name] for name in features], len(observation.taps), targets)
    if feedback.states:
        teacher.remember_states(samples, feedback)
    if labels and options.label_share:
        folders = class_folders(inputs.samples.names) if options.labels == FOLDERS else []
        _check_labels(_deciding(points, targets[0]), samples, labels, len(folders))
    known = dict(enumerate(samples))
    return Examples(known, teacher, observation, points, labels, options, Cache(options.memory))


def check_images(inputs: Inputs, sample: Sample) -> None:
    """Check that a sample holds images that can be changed.

    Raises:
        DataError: it holds none, or depends on the sample before it.
    """
    feeds = check_feeds(sample, inputs.specs)
    if inputs.feedback.states:
        raise DataError("--augment: samples of a stateful model follow one another: leave it out")
    if all(image_axes(array) is None for array in feeds.values()):
        channels = f"{', '.join(map(str, CHANNELS[:-1]))} or {CHANNELS[-1]}"
        raise DataError(
            f"--augment: no input holds float32 images of {channels} channels and sides of {LEAST_SIZE} "
            "pixels or more, [1, channels, height, width] or [1, height, width, channels]: leave it out"
        )


def _deciding(points: Sequence[Point], values: Sequence[Array]) -> int:
    """Return the number of classes between which the output of a sample decides.

    Raises:
        DataError: no output decides between classes, or one decides more than once.
    """
    point = next((each for each in points if each.axis is not None), None)
    shape = () if point is None else values[point.tap].shape
    if point is None or not shape:
        raise DataError("--labels: no float output of the model has an axis of classes: leave --labels out")
    classes = int(shape[point.axis or 0])
    if math.prod(shape) != classes:
        raise DataError(
            f"--labels: a sample has {math.prod(shape) // max(classes, 1)} decisions and one label: "
            "finetuning takes labels for models that decide once"
        )
    return classes


def _check_labels(
    classes: int, samples: Sequence[Sample], labels: Sequence[int | None], folders: int
) -> None:
    """Check labels against the number of classes; `folders` is that of the class folders, 0 without them."""
    if folders and folders != classes:
        raise DataError(
            f"--labels folders: there are {folders} folders, but the model has {classes} classes: give a CSV "
            "with the number of the class of each file"
        )
    for sample, label in zip(samples, labels, strict=True):
        if label is not None and not 0 <= label < classes:
            raise DataError(
                f"sample {sample.name}: label {label}, but the model has {classes} classes: give numbers "
                f"from 0 to {classes - 1}"
            )


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches drawn with a seed: each sample once per epoch, in a new order.

    examples  where they come from
    size      samples of a batch
    count     micro-batches of a batch
    seed      of the order and of changes
    """

    examples: Examples
    size: int
    count: int
    seed: int

    def indices(self, step: int) -> list[int]:
        """Return the samples of a batch; they depend on the step alone."""
        count, chosen = len(self.examples.samples), []
        for position in range(step * self.size, (step + 1) * self.size):
            epoch, place = divmod(position, count)
            order = np.random.default_rng((self.seed, epoch)).permutation(count)
            chosen.append(int(order[place]))
        return chosen

    def parts(self, step: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return the samples of each part of a batch, and with augmentation the partner of each."""
        indices, count = self.indices(step), min(self.count, self.size)
        rng = np.random.default_rng((self.seed, 1, step))
        partners = rng.integers(len(self.examples.samples), size=self.size).tolist()
        bounds = [part * self.size // count for part in range(count + 1)]
        return [
            (tuple(indices[start:stop]), tuple(partners[start:stop] if self.examples.options.augment else ()))
            for start, stop in pairwise(bounds)
        ]


def grouped(examples: Sequence[Example], most: int) -> Iterator[tuple[Example, int]]:
    """Yield examples with the number of samples in each; up to `most` of equal shapes become one."""
    groups: dict[object, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.shapes, []).append(example)
    for group in groups.values():
        for start in range(0, len(group), most):
            part = group[start : start + most]
            yield stacked(part) if len(part) > 1 else part[0], len(part)


def most_together(examples: Examples, room: int) -> int:
    """Return how many samples of equal shapes to run as one: 1 if the model does not treat them one by one.

    Args:
        examples: the examples.
        room: samples for whose values there is memory.
    """
    teacher = examples.teacher
    fixed = any(not spec.shape or spec.shape[0] is not None for spec in teacher.specs)
    if len(examples.samples) < 2 or fixed or teacher.stated or room < 2:
        return 1
    one, other = (examples.example(i).feeds for i in (0, 1))
    if any(one[name].shape != other[name].shape for name in one):
        other = one
    both = {name: np.concatenate([one[name], other[name]]) for name in one}
    try:
        values = [teacher.run("of a batch", feeds) for feeds in (one, other, both)]
    except ModelError:
        return 1
    return room if is_stackable(*values) else 1
