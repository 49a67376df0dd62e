"""Runs of several models over the same samples, in this process or on a cluster, added up by model."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnxruntime as ort

from onnxq.comparison.observation import Observation, Observed, Opened, run_all
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds
from onnxq.errors import ModelError
from onnxq.evaluation.tally import Tally
from onnxq.runtime.parallel import IN_PROCESS, Executor, Job
from onnxq.runtime.progress import progress
from onnxq.runtime.random_seeds import unseeded_nodes
from onnxq.runtime.sessions import InputSpec, open_session
from onnxq.types import Array, Feeds


@dataclass(frozen=True)
class Compared:
    """One sample: SHA-256 of its feeds, those that scores read, and the values of each model."""

    digest: bytes
    feeds: Feeds
    results: Sequence[Observed]


@dataclass(frozen=True, eq=False)
class Comparing(Job[Sample, list[Compared]]):
    """Runs of all models over samples.

    opened_models  the models, the float model first
    specs        their inputs
    observation  the compared values
    read         inputs that scores read; None for all
    sessions     open sessions of the models; they do not travel
    """

    opened_models: Sequence[Opened]
    specs: list[InputSpec]
    observation: Observation
    read: frozenset[str] | None
    sessions: Sequence[ort.InferenceSession] = ()

    def __reduce__(self) -> tuple[object, ...]:
        return Comparing, (self.opened_models, self.specs, self.observation, self.read)

    def opened(self, threads: int) -> Callable[[Sequence[Sample]], list[Compared]]:
        """Open the models, unless they are."""
        sessions = self.sessions or [open_session(each.model, threads=threads) for each in self.opened_models]
        states: list[Sequence[Array] | None] = [None] * len(sessions)
        return lambda samples: [self._compared(sample, sessions, states) for sample in samples]

    def _compared(
        self,
        sample: Sample,
        sessions: Sequence[ort.InferenceSession],
        states: list[Sequence[Array] | None],
    ) -> Compared:
        feeds, results, digest = check_feeds(sample, self.specs), [], hashlib.sha256()
        for array in feeds.values():
            digest.update(
                repr(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).data
            )
        for slot, (session, form) in enumerate(zip(sessions, self.opened_models, strict=True)):
            ((_, found),) = run_all(session, form, [(sample.name, feeds)], self.observation, states, slot)
            results.append(found)
        return Compared(digest.digest(), feeds, results)

    def packed(self, result: list[Compared]) -> list[Compared]:
        """Leave out the inputs that no score reads."""
        if self.read is None:
            return result
        read = self.read
        return [
            replace(each, feeds={name: array for name, array in each.feeds.items() if name in read})
            for each in result
        ]


def run_all_models(
    samples: Sequence[Sample], comparing: Comparing, tallies: Sequence[Tally], executor: Executor
) -> str:
    """Run all samples through all models, and return the data's SHA-256."""
    # each sample needs the state after the sample before, or the numbers drawn after it
    ordered = bool(comparing.observation.feedback.states) or any(
        unseeded_nodes(each.model) for each in comparing.opened_models
    )
    run = (IN_PROCESS if ordered else executor).opened(comparing, 1)
    content = hashlib.sha256()
    compared = (each for group in run(samples) for each in group)
    for sample, found in zip(progress(samples, desc="eval", unit="sample"), compared, strict=True):
        content.update(found.digest)
        for tally, result in zip(tallies, found.results, strict=True):
            _check_ranks(sample, tally.names, found.results[0].own, result.own)
            tally.add(sample, found.feeds, found.results[0], result)
    return content.hexdigest()


def _check_ranks(
    sample: Sample, names: Sequence[str], expected: Sequence[Array], found: Sequence[Array]
) -> None:
    for name, want, have in zip(names, expected, found, strict=True):
        if np.ndim(want) != np.ndim(have):
            raise ModelError(
                f"sample {sample.name}: output '{name}' has shape {np.shape(have)}, but {np.shape(want)} in "
                "the float model: compare models with outputs of the same rank"
            )
