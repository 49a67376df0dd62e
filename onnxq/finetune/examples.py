"""Examples: samples with the float model's values as targets, and the batches of a training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxq.comparison.feedback import Feedback
from onnxq.comparison.observation import Observation, Observed, Opened, observe
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds
from onnxq.errors import DataError, ModelError
from onnxq.finetune.features import find_features
from onnxq.finetune.form import TrainingForm
from onnxq.finetune.gradients import Example, is_stackable, stacked
from onnxq.finetune.loss import Point, feature_points, points_of, target_of
from onnxq.graph.macs import concrete_shapes
from onnxq.options import FinetuneOptions
from onnxq.runtime.sessions import InputSpec, open_session, run
from onnxq.search.inputs import Inputs
from onnxq.techniques.augmentation import Change, changed, image_axes
from onnxq.types import Array, Feeds

SEEN = 16
"""Samples whose values show the size of the signal."""
ACTIVATION_BYTES = 400 << 20
"""Bytes of the values of the forward pass that samples which run as one may have."""


@dataclass(eq=False)
class Teacher:
    """The float model, and the feeds of the samples of a stateful model with the states before each.

    opened  the float model with the compared values among its outputs
    specs   its inputs
    features  names of inner values that are compared, too
    stated  feeds and compared values by the index of the sample; empty without states
    """

    opened: Opened
    specs: list[InputSpec]
    features: Sequence[str] = ()
    stated: dict[int, tuple[Feeds, Sequence[Array]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.opened.model.graph
        self._first = len(graph.outputs)
        by_name = {value.name: value for node in graph for value in node.outputs}
        graph.outputs.extend(by_name[name] for name in self.features)
        self.session = open_session(self.opened.model)

    def run(self, name: str, feeds: Feeds) -> Sequence[Array]:
        """Run the float model; return its values at the taps, then the features."""
        return self._values(run(self.session, feeds, name))

    def _values(self, values: Sequence[Array]) -> Sequence[Array]:
        return [*Observed.of(self.opened, values).inner, *values[self._first :]]

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
class Examples:
    """Samples for training, with the float model as teacher.

    samples      the samples
    teacher      the float model
    observation  compared values
    points       what the loss compares
    labels       class of each sample, None for one without; empty without labels
    options      share of the labels, augmentation and memory
    """

    samples: Sequence[Sample]
    teacher: Teacher
    observation: Observation
    points: Sequence[Point]
    labels: Sequence[int | None]
    options: FinetuneOptions
    _kept: dict[int, Example] = field(default_factory=dict)
    _bytes: int = 0

    def example(self, index: int) -> Example:
        """Return one sample with its targets."""
        if index in self._kept:
            return self._kept[index]
        feeds, values = self.teacher.sample(index, self.samples[index])
        example = self._targeted(feeds, values, index)
        size = sum(array.nbytes for array in (*feeds.values(), *example.targets))
        if self._bytes + size <= self.options.memory:
            self._kept[index] = example
            self._bytes += size
        return example

    def drawn(self, index: int, rng: np.random.Generator) -> Example:
        """Return one sample with its targets, changed at random if the options say so."""
        example = self.example(index)
        if not self.options.augment:
            return example
        change, other = Change.draw(rng), self.example(int(rng.integers(len(self.samples)))).feeds
        feeds = dict(example.feeds)
        for name, array in example.feeds.items():
            if image_axes(array) is not None:
                # a mixture has no label of its own
                alike = not self.labels and other[name].shape == array.shape
                feeds[name] = changed(array, change, other[name] if alike else None)
        return self._targeted(feeds, self.teacher.run(self.samples[index].name, feeds), index)

    def _targeted(self, feeds: Feeds, values: Sequence[Array], index: int) -> Example:
        """Return feeds with their targets, from the float model's values."""
        label, share = self.labels[index] if self.labels else None, self.options.label_share
        return Example(feeds, [target_of(point, values[point.tap], label, share) for point in self.points])


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
        DataError: a label is no class of the model, or no input is an image that can be changed.
    """
    # inner values are those of the form that is quantized
    model, feedback = form.recipe.model, inputs.feedback
    seen = [check_feeds(sample, inputs.specs) for sample in samples[:SEEN]]
    observation = observe(model, seen, feedback)
    features = find_features(model, form.rounded, concrete_shapes(model, seen[0]))
    teacher = Teacher(observation.opened(model), inputs.specs, features)
    targets = [teacher.run(sample.name, feeds) for sample, feeds in zip(samples, seen, strict=False)]
    points = points_of(model, observation, targets, options.label_share if labels else 0.0)
    if not points:
        raise ModelError(f"{inputs.options.model}: no output holds float32 values: nothing can be compared")
    points += feature_points(features, len(observation.taps), targets)
    if feedback.states:
        teacher.remember_states(samples, feedback)
    if labels:
        _check_labels(points, targets[0], samples, labels)
    if options.augment and (feedback.states or all(image_axes(array) is None for array in seen[0].values())):
        raise DataError(
            "--augment: no input holds images [1, channels, height, width] or [1, height, width, channels]: "
            "leave it out"
        )
    return Examples(samples, teacher, observation, points, labels, options)


def _check_labels(
    points: Sequence[Point], values: Sequence[Array], samples: Sequence[Sample], labels: Sequence[int | None]
) -> None:
    deciding = next(point for point in points if point.axis is not None)
    shape = values[deciding.tap].shape
    axis = deciding.axis or 0
    if int(np.prod(shape)) != shape[axis]:
        raise DataError(
            f"--labels: a sample has {int(np.prod(shape)) // shape[axis]} decisions and one label: "
            "finetuning takes labels for models that decide once"
        )
    for sample, label in zip(samples, labels, strict=True):
        if label is not None and not 0 <= label < shape[axis]:
            raise DataError(
                f"sample {sample.name}: label {label}, but the model has {shape[axis]} classes: correct it"
            )


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches drawn with a seed: each sample once per epoch, in a new order.

    examples   where they come from
    size       samples of a batch
    most       largest number of samples of equal shapes that run as one
    seed       of the order and of changes
    """

    examples: Examples
    size: int
    most: int
    seed: int

    def indices(self, step: int) -> list[int]:
        """Return the samples of a batch; they depend on the step alone."""
        count, chosen = len(self.examples.samples), []
        for position in range(step * self.size, (step + 1) * self.size):
            epoch, place = divmod(position, count)
            order = np.random.default_rng((self.seed, epoch)).permutation(count)
            chosen.append(int(order[place]))
        return chosen

    def of(self, step: int) -> Iterator[tuple[Example, int]]:
        """Yield the examples of a batch and the samples in each; a few samples of equal shapes together."""
        rng = np.random.default_rng((self.seed, 1, step))
        alone = [self.examples.drawn(index, rng) for index in self.indices(step)]
        groups: dict[object, list[Example]] = {}
        for example in alone:
            groups.setdefault(example.shapes, []).append(example)
        for group in groups.values():
            for start in range(0, len(group), self.most):
                part = group[start : start + self.most]
                yield stacked(part) if len(part) > 1 else part[0], len(part)


def most_together(examples: Examples, model_bytes: int) -> int:
    """Return how many samples of equal shapes to run as one: 1 if the model does not treat them one by one.

    Args:
        examples: the examples.
        model_bytes: bytes of all values that the training computes for one sample.
    """
    teacher = examples.teacher
    fixed = any(not spec.shape or spec.shape[0] is not None for spec in teacher.specs)
    room = max(1, ACTIVATION_BYTES // max(model_bytes, 1))
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
