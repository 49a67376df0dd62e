"""Examples: samples with the float model's values as targets, and the batches of a training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxq.comparison.feedback import Feedback
from onnxq.comparison.observation import Observation, Observed, Opened, observe
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds
from onnxq.errors import DataError, ModelError
from onnxq.finetune.gradients import Example, is_stackable, stacked
from onnxq.finetune.loss import Point, points_of, target_of
from onnxq.runtime.sessions import InputSpec, open_session, run
from onnxq.search.inputs import Inputs
from onnxq.types import Array, Feeds

SEEN = 16
"""Samples whose values show the size of the signal."""


@dataclass(eq=False)
class Examples:
    """Samples for training, with the float model as teacher.

    samples      the samples
    specs        inputs of the model
    observation  compared values
    points       what the loss compares
    labels       class of each sample; empty without labels
    label_share  weight of the labels against the teacher, 0..1
    memory       most bytes of examples that are kept; others are made again when they are needed
    """

    samples: Sequence[Sample]
    specs: list[InputSpec]
    observation: Observation
    points: Sequence[Point]
    teacher: "Teacher"
    labels: Sequence[int | None] = ()
    label_share: float = 0.0
    memory: int = 512 << 20
    _kept: dict[int, Example] = field(default_factory=dict)
    _bytes: int = 0

    def example(self, index: int) -> Example:
        """Return one sample with its targets."""
        if index in self._kept:
            return self._kept[index]
        sample = self.samples[index]
        feeds = self.teacher.feeds(index, sample)
        example = self.targeted(feeds, self.teacher.values(index, sample.name, feeds), index)
        size = sum(array.nbytes for array in (*feeds.values(), *example.targets))
        if self._bytes + size <= self.memory:
            self._kept[index] = example
            self._bytes += size
        return example

    def targeted(self, feeds: Feeds, values: Sequence[Array], index: int) -> Example:
        """Return feeds with their targets, from the float model's values."""
        label = self.labels[index] if self.labels else None
        return Example(
            feeds, [target_of(point, values[point.tap], label, self.label_share) for point in self.points]
        )


@dataclass(eq=False)
class Teacher:
    """The float model, and the feeds of samples with the states of a stateful model."""

    opened: Opened
    observation: Observation
    specs: list[InputSpec]
    stated: dict[int, tuple[Feeds, Sequence[Array]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.session = open_session(self.opened.model)

    def feeds(self, index: int, sample: Sample) -> Feeds:
        """Return the feeds of a sample."""
        return self.stated[index][0] if index in self.stated else check_feeds(sample, self.specs)

    def values(self, index: int, name: str, feeds: Feeds) -> Sequence[Array]:
        """Return the float model's values at the taps."""
        return self.stated[index][1] if index in self.stated else self.run(name, feeds)

    def run(self, name: str, feeds: Feeds) -> Sequence[Array]:
        """Run the float model; return its values at the taps."""
        return Observed.of(self.opened, run(self.session, feeds, name)).inner

    def remember_states(self, samples: Sequence[Sample], feedback: Feedback) -> None:
        """Run sequences, and keep the feeds of each sample with the states before it."""
        kept: Sequence[Array] | None = None
        for index, sample in enumerate(samples):
            feeds = feedback.feeds(sample.name, check_feeds(sample, self.specs), kept)
            kept = run(self.session, feeds, sample.name)
            self.stated[index] = feeds, Observed.of(self.opened, kept).inner
            kept = kept[: self.opened.own]


def make_examples(
    inputs: Inputs, samples: Sequence[Sample], labels: Sequence[int | None], label_share: float, memory: int
) -> Examples:
    """Find what the loss compares, and return the examples of a training.

    Raises:
        DataError: a label is no class of the model.
    """
    model, specs, feedback = inputs.model, inputs.specs, inputs.feedback
    seen = [check_feeds(sample, specs) for sample in samples[:SEEN]]
    observation = observe(model, seen, feedback)
    opened = observation.opened(model)
    teacher = Teacher(opened, observation, specs)
    targets = [teacher.run(sample.name, feeds) for sample, feeds in zip(samples, seen, strict=False)]
    points = points_of(model, observation, targets, labels=bool(labels))
    if not points:
        raise ModelError(
            f"{inputs.options.model}: no output holds float32 values: there is nothing to compare"
        )
    if feedback.states:
        teacher.remember_states(samples, feedback)
    if labels:
        _check_labels(points, targets, samples, labels)
    return Examples(samples, specs, observation, points, teacher, labels, label_share, memory)


def _check_labels(
    points: Sequence[Point],
    targets: Sequence[Sequence[Array]],
    samples: Sequence[Sample],
    labels: Sequence[int | None],
) -> None:
    deciding = next(point for point in points if point.axis is not None)
    classes = targets[0][deciding.tap].shape[deciding.axis or 0]
    for sample, label in zip(samples, labels, strict=True):
        if label is not None and not 0 <= label < classes:
            raise DataError(
                f"sample {sample.name}: label {label}, but the model has {classes} classes: correct it"
            )


@dataclass(eq=False)
class Batches:
    """Batches drawn with a seed: each sample once per epoch, in a new order.

    examples   where they come from
    size       samples of a batch
    together   whether samples of equal shapes run as one
    seed       of the order
    """

    examples: Examples
    size: int
    together: bool
    seed: int

    def indices(self, step: int) -> list[int]:
        """Return the samples of a batch; they depend on the step alone."""
        count = len(self.examples.samples)
        size = min(self.size, count)
        first = step * size
        chosen = []
        for position in range(first, first + size):
            epoch, place = divmod(position, count)
            order = np.random.default_rng((self.seed, epoch)).permutation(count)
            chosen.append(int(order[place]))
        return chosen

    def of(self, step: int) -> Iterator[tuple[Example, int]]:
        """Yield the examples of a batch, and the number of samples in each; samples of equal shapes together."""
        alone = [self.examples.example(index) for index in self.indices(step)]
        if not self.together:
            yield from ((example, 1) for example in alone)
            return
        groups: dict[object, list[Example]] = {}
        for example in alone:
            groups.setdefault(example.shapes, []).append(example)
        for group in groups.values():
            yield stacked(group) if len(group) > 1 else group[0], len(group)


def runs_together(examples: Examples) -> bool:
    """Tell whether the float model runs two samples as one with the same results."""
    teacher = examples.teacher
    if len(examples.samples) < 2 or any(spec.shape and spec.shape[0] is not None for spec in examples.specs):
        return False
    one, other = (examples.example(i).feeds for i in (0, 1))
    if any(one[name].shape != other[name].shape for name in one):
        other = one
    if any(array.ndim == 0 for array in one.values()):
        return False
    both = {name: np.concatenate([one[name], other[name]]) for name in one}
    try:
        return is_stackable(*(teacher.run("of a batch", feeds) for feeds in (one, other, both)))
    except ModelError:
        return False
