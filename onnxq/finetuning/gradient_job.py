"""The gradients of micro-batches as a job for an executor: this process, or workers of a cluster."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxq.data.sample import Sample
from onnxq.finetuning.examples import Examples, grouped
from onnxq.finetuning.gradients import GradientGraph
from onnxq.finetuning.integer_product import Product
from onnxq.runtime.parallel import Job
from onnxq.techniques.stochastic_gradients import QuantizedGradient, with_feedback
from onnxq.types import Array, Floats

LEAST_QUANTIZED = 64
"""Values of a gradient below which it stays in floats: a scale takes as many bytes."""


Fed = Mapping[str, Array | Product]
"""Inputs of a training form by name, in the form in which they travel."""


@dataclass(frozen=True)
class MicroBatch:
    """A part of the batch of a step.

    number    its place among the parts
    step      training step
    indices   of its samples
    partners  index of the sample that may be mixed into each; empty without augmentation
    samples   samples that the process may not have, by index
    fed       inputs of the graph
    renewed   whether rounding errors start at zero
    before    the same part of earlier steps, from one that is renewed on: they give a process the last
              rounding error
    """

    number: int
    step: int
    indices: tuple[int, ...]
    partners: tuple[int, ...]
    samples: Mapping[int, Sample]
    fed: Fed
    renewed: bool = True
    before: tuple["MicroBatch", ...] = ()


@dataclass(frozen=True)
class Missing:
    """A micro-batch that a process cannot compute: it lacks samples, or the last rounding error."""

    number: int


@dataclass(frozen=True)
class Sums:
    """Loss and gradients of consecutive micro-batches, as sums over their samples.

    first, count  the micro-batches
    samples       number of samples
    loss          their sum
    gradients     by name of the input
    rounded       the same, of those that were rounded
    frozen        nodes behind which gradients end, with the reason, by name
    kept          samples that the process keeps, by number of the micro-batch
    """

    first: int
    count: int
    samples: int
    loss: float
    gradients: Mapping[str, Floats]
    frozen: Mapping[str, str]
    rounded: Mapping[str, QuantizedGradient] = field(default_factory=dict)
    kept: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def floats(self) -> "Sums":
        """The same with all gradients as floats."""
        found = {name: each.dequantize() for name, each in self.rounded.items()}
        return replace(self, gradients={**self.gradients, **found}, rounded={})

    def __add__(self, other: "Sums") -> "Sums":
        """Add the sums of the micro-batches that follow; gradients are floats."""
        return Sums(
            self.first,
            self.count + other.count,
            self.samples + other.samples,
            self.loss + other.loss,
            _added(self.gradients, other.gradients),
            {**self.frozen, **other.frozen},
            kept={**self.kept, **other.kept},
        )


def _added(one: Mapping[str, Floats], other: Mapping[str, Floats]) -> dict[str, Floats]:
    """Add gradients; one that is absent is zero."""
    return {name: one[name] + other[name] if name in one else other[name] for name in other} | {
        name: one[name] for name in one if name not in other
    }


def merged(sums: Sequence[Sums]) -> list[Sums]:
    """Add neighbors along a binary tree, as far as they are there: the result is the same whoever adds first.

    Args:
        sums: in the order of their micro-batches.
    """
    found: list[Sums] = []
    for each in sums:
        found.append(each)
        while len(found) > 1 and _siblings(*found[-2:]):
            right = found.pop()
            found[-1] = found[-1] + right
    return found


def _siblings(left: Sums, right: Sums) -> bool:
    neighbors = left.count == right.count and left.first + left.count == right.first
    return neighbors and left.first % (2 * left.count) == 0


@dataclass(frozen=True, eq=False)
class GradientJob(Job[MicroBatch, "list[Sums | Missing]"]):
    """Computes the gradients of micro-batches.

    graph     loss and gradients
    examples  samples with targets
    most      largest number of samples of equal shapes that run as one
    bits      bits of a gradient, 32 for floats
    seed      of changes of the samples, and of random rounding
    """

    graph: GradientGraph
    examples: Examples
    most: int
    bits: int
    seed: int

    @property
    def keeps_state(self) -> bool:
        """A process keeps examples, and the rounding errors of its micro-batches."""
        return True

    def opened(self, threads: int) -> Callable[[Sequence[MicroBatch]], "list[Sums | Missing]"]:
        """Return the function that computes consecutive micro-batches."""
        return _Opened(replace(self, graph=self.graph.on(threads))).sums


@dataclass(frozen=True, eq=False)
class _Opened:
    """A job in a process.

    job     the job
    errors  the last step of each micro-batch, and the rounding errors of its gradients
    """

    job: GradientJob
    errors: dict[int, tuple[int, Mapping[str, Floats]]] = field(default_factory=dict)

    def sums(self, group: Sequence[MicroBatch]) -> list[Sums | Missing]:
        """Return the sums of consecutive micro-batches, neighbors added where that loses nothing."""
        found = [self._sum(each) for each in group]
        if self.job.bits < 32 or any(isinstance(each, Missing) for each in found):
            return found
        return list(merged([each for each in found if isinstance(each, Sums)]))

    def _sum(self, micro: MicroBatch) -> Sums | Missing:
        for earlier in micro.before:
            self._sum(earlier)
        examples = self.job.examples.having(micro.samples)
        if not all(examples.has(index) for index in (*micro.indices, *micro.partners)):
            return Missing(micro.number)
        step, errors = (micro.step - 1, {}) if micro.renewed else self.errors.get(micro.number, (-1, {}))
        if self.job.bits < 32 and step != micro.step - 1:
            return Missing(micro.number)
        found = self._floats(micro, examples)
        found = replace(found, kept={micro.number: tuple(filter(examples.keeps, micro.indices))})
        return found if self.job.bits == 32 else self._quantized(micro, found, errors)

    def _floats(self, micro: MicroBatch, examples: Examples) -> Sums:
        """Return the sums over the samples; some samples of equal shapes run as one."""
        fed = {name: each.value if isinstance(each, Product) else each for name, each in micro.fed.items()}
        drawn = examples.drawn(micro.indices, micro.partners, (self.job.seed, 1, micro.step, micro.number))
        loss, sums, frozen = 0.0, dict[str, Floats](), dict[str, str]()
        for example, size in grouped(drawn, self.job.most):
            mean, gradients, ends = self.job.graph(example, size, fed)
            loss += mean * size
            sums = _added(sums, {name: each * np.float32(size) for name, each in gradients.items()})
            frozen |= ends
        return Sums(micro.number, 1, len(micro.indices), loss, sums, frozen)

    def _quantized(self, micro: MicroBatch, sums: Sums, errors: Mapping[str, Floats]) -> Sums:
        """Round the gradients; keep the errors for the next step."""
        rng = np.random.default_rng((self.job.seed, 2, micro.step, micro.number))
        large = {name: each for name, each in sums.gradients.items() if each.size >= LEAST_QUANTIZED}
        rounded, left = dict[str, QuantizedGradient](), dict[str, Floats]()
        for name, each in large.items():
            before = errors.get(name, np.zeros_like(each))
            rounded[name], left[name] = with_feedback(each, before, self.job.bits, rng)
        self.errors[micro.number] = micro.step, left
        others = {name: each for name, each in sums.gradients.items() if name not in large}
        return replace(sums, gradients=others, rounded=rounded)
