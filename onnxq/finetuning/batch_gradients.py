"""Loss and gradients of whole batches, whose micro-batches an executor computes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add

import numpy as np

from onnxq.finetuning.examples import Batches
from onnxq.finetuning.form import TrainingForm
from onnxq.finetuning.gradient_job import MicroBatch, Missing, Sums, merged
from onnxq.finetuning.trained import Values
from onnxq.types import Floats


@dataclass(frozen=True)
class BatchGradient:
    """Loss and gradient of a batch, means over its samples.

    loss       the loss
    gradients  of the inputs of the graph, by name
    frozen     nodes behind which gradients end, with the reason, by name
    """

    loss: float
    gradients: Mapping[str, Floats]
    frozen: Mapping[str, str]


@dataclass(eq=False)
class BatchGradients:
    """Loss and gradients of batches: the same numbers whoever computes the micro-batches.

    form     what is trained
    batches  the samples of each step
    run      computes micro-batches
    renewal  steps after which the rounding errors of gradients start at zero; None where there are none
    """

    form: TrainingForm
    batches: Batches
    run: Callable[[Iterable[MicroBatch]], Iterator[list[Sums | Missing]]]
    renewal: int | None = None
    _kept: dict[int, set[int]] = field(default_factory=dict)
    _since: list[list[MicroBatch]] = field(default_factory=list)

    def __call__(self, step: int, values: Values) -> BatchGradient:
        """Return loss and gradient of the batch of a step."""
        whole = self._micro_batches(step, values)
        found = [each for group in self.run([self._lean(each) for each in whole]) for each in group]
        missing = [self._complete(whole[each.number]) for each in found if isinstance(each, Missing)]
        if missing:  # a worker has died, or has joined: another one takes over
            found += [each for group in self.run(missing) for each in group]
        sums = sorted((each.floats for each in found if isinstance(each, Sums)), key=lambda each: each.first)
        if self.renewal is not None:
            self._since.append(whole)
        total = reduce(add, merged(sums))
        assert total.count == len(whole)
        for number, kept in total.kept.items():
            self._kept.setdefault(number, set()).update(kept)
        count = np.float32(total.samples)
        means = {name: np.asarray(each / count, np.float32) for name, each in total.gradients.items()}
        return BatchGradient(total.loss / total.samples, means, total.frozen)

    def _micro_batches(self, step: int, values: Values) -> list[MicroBatch]:
        """Divide the batch of a step."""
        renewed = self.renewal is None or step % self.renewal == 0
        if renewed:
            self._since.clear()
        fed, samples = self.form.sent(values), self.batches.examples.samples
        return [
            MicroBatch(
                number,
                step,
                indices,
                partners,
                {index: samples[index] for index in (*indices, *partners)},
                fed,
                renewed,
            )
            for number, (indices, partners) in enumerate(self.batches.parts(step))
        ]

    def _lean(self, micro: MicroBatch) -> MicroBatch:
        """Leave out the samples that the process which had the same part before has kept."""
        kept: Sequence[int] | set[int] = self._kept.get(micro.number, ())
        return replace(micro, samples={i: each for i, each in micro.samples.items() if i not in kept})

    def _complete(self, micro: MicroBatch) -> MicroBatch:
        """Add everything that a process needs which has seen no part before."""
        self._kept.pop(micro.number, None)
        return replace(micro, before=tuple(step[micro.number] for step in self._since))
