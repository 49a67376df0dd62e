"""What candidates are held against: samples with the float model's values where its outputs are judged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxq.comparison.errors import OutputErrors, bounds, decibels
from onnxq.comparison.feedback import Feedback, evenly
from onnxq.comparison.observation import Comparison, Observation, Observed, observe, run_all
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds
from onnxq.errors import ModelError
from onnxq.runtime.sessions import InputSpec, open_session
from onnxq.types import Array, Feeds

MOST_TELLING, IN_SEQUENCE = 8, 20
"""Samples on which nodes are measured one by one, at most; of a stateful model so many that follow one another."""
ERRORS = 1.01
"""Standard errors within which forms are told apart by chance alone: one is what a single sample that differs makes."""


@dataclass(frozen=True)
class Judged:
    """How close a form of the model comes, over the samples that decide.

    noise    noise / signal of each part of the outputs, on the held-out samples or on the others, whichever is worse; infinite where
             the runtime cannot load or run the form, whatever the reason: other nodes left float may help
    bound    the same, with what fresh samples may be worse
    samples  what each sample adds to the ratio of each part, [samples, parts]
    changes  share of decisions that noise of this size is expected to change, 0..1
    """

    noise: Sequence[float]
    bound: Sequence[float] = ()
    samples: Sequence[Sequence[float]] = ()
    changes: float = 0.0

    @property
    def sqnr_db(self) -> float:
        """Of the worst part, dB; -200 where the form cannot be run."""
        return decibels(max(self.noise, default=0.0))

    @property
    def bound_db(self) -> float:
        """What fresh samples are expected to keep, of the worst part, dB."""
        return decibels(max(self.bound or self.noise, default=0.0))

    @property
    def mean_noise(self) -> float:
        """Over the parts: the worst counts most, but a part that no form improves does not hide the others."""
        return sum(self.noise) / max(1, len(self.noise))

    def as_good_as(self, other: "Judged") -> bool:
        """Whether it is no more than one standard error of their difference, sample by sample, farther from float.

        The one-standard-error rule (Breiman et al., Classification and Regression Trees, 1984): of what can hardly be told apart
        take the simplest.
        """
        if not self.samples or len(self.samples) != len(other.samples):
            return False
        differences = np.mean(np.asarray(self.samples) - np.asarray(other.samples), axis=1)
        if not np.isfinite(differences).all():
            return False
        return bool(
            differences.sum()
            <= ERRORS * math.sqrt(len(differences)) * differences.std(ddof=min(1, len(differences) - 1))
        )


@dataclass(frozen=True)
class References:
    """Samples with what the float model gives.

    observation  where outputs are judged, and their parts
    samples      names and feeds, in their order
    expected     the float model's values of each
    held_out     how many of the samples, the first ones, are; where they are few, others follow that calibrate
    evidence     how many samples a written file will be verified on
    """

    observation: Observation
    samples: Sequence[tuple[str, Feeds]]
    expected: Sequence[Observed]
    held_out: int
    evidence: int = 0

    @staticmethod
    def of(
        model: ir.Model,
        held_out: Sequence[Sample],
        others: Sequence[Sample],
        specs: list[InputSpec],
        feedback: Feedback | None = None,
        evidence: int = 0,
    ) -> "References":
        """Run a float model over samples."""
        samples = [(sample.name, check_feeds(sample, specs)) for sample in (*held_out, *others)]
        observation = observe(model, [feeds for _, feeds in samples], feedback)
        opened = observation.opened(model)
        expected = [
            found for _, found in run_all(open_session(opened.model), opened, samples, observation.feedback)
        ]
        return References(observation, samples, expected, len(held_out), evidence)

    @property
    def size(self) -> int:
        """Bytes of what goes in and comes out."""
        feeds = [array for _, sample in self.samples for array in sample.values()]
        values = [array for each in self.expected for array in (*each.own, *each.inner, *each.outer)]
        return sum(
            {id(array): array.nbytes for array in (*feeds, *values) if isinstance(array, np.ndarray)}.values()
        )

    def judged(self, model: ir.Model, *, at_outputs: bool = True) -> Judged:
        """How close a form of the model's outputs come to float's.

        Held-out samples flatter by chance where they are few, calibration samples by what was made from them: the worse counts.
        Behind a Softmax the noise is that of the decisions that tip, of few samples one or two. Unless it is asked for `at_outputs`,
        the bound there is that in front of it, or the share of decisions that are expected to change where that is larger: a
        hundredth of them is as much as 20 dB.
        """
        comparison = self._compared(model, range(len(self.samples)))
        if comparison is None:
            return self._ruined()
        outer = self._judged(comparison.outer, range(len(self.samples)), comparison)
        if (
            at_outputs
            or not self.observation.softened
            or len(self.observation.inner) != len(self.observation.outer)
        ):
            return outer
        inner = self._judged(comparison.inner, range(len(self.samples)), comparison)
        changes = {number: each.expected() for number, each in comparison.decisions.items() if each.count}
        bound = [
            max(noise, changes.get(part.value, 0.0))
            for part, noise in zip(self.observation.inner, inner.bound, strict=True)
        ]
        return replace(outer, bound=tuple(bound))

    def bound_db(self, model: ir.Model) -> float:
        """What fresh samples are expected to keep of the outputs, in dB alone."""
        return self.judged(model).bound_db

    def sqnr_db(self, model: ir.Model) -> float:
        """Of the outputs' worst part, in dB alone."""
        return self.judged(model).sqnr_db

    def inner_judged(self, model: ir.Model, chosen: Sequence[int] | None = None) -> Judged:
        """The same in front of a final Softmax, over some of the samples or all: it tells apart what a Softmax hides."""
        chosen = range(len(self.samples)) if chosen is None else chosen
        comparison = self._compared(model, chosen)
        return self._ruined() if comparison is None else self._judged(comparison.inner, chosen, comparison)

    def telling(self, judged: Judged, least: int) -> list[int]:
        """A few samples, in their order, that tell where a form's noise comes from.

        Evenly spaced ones, and for each part of which these carry less than half of their share of the noise, those that carry most:
        a score is near zero in most pictures. Of a stateful model the first ones, for a sample hangs on those before it.
        """
        shares, count = np.asarray(judged.samples, float), len(self.samples)
        if self.observation.feedback.states:
            return list(range(min(IN_SEQUENCE, count)))
        chosen = evenly(range(count), least)
        if shares.ndim != 2 or not np.isfinite(shares).all():
            return chosen
        relative = shares / np.maximum(shares.sum(0), 1e-30)
        while len(chosen) < min(count, MOST_TELLING):
            carried = relative[chosen].sum(0)
            part = int(np.argmin(carried))
            if carried[part] >= len(chosen) / count / 2:
                break
            chosen.append(
                max((i for i in range(count) if i not in chosen), key=lambda i: (relative[i, part], -i))
            )
        return sorted(chosen)

    def values(self, chosen: Sequence[int]) -> int:
        """How many values the smallest part has over some of the samples."""
        found = [
            sum(
                taken.size
                for i in chosen
                if (taken := part.of(np.asarray(self.expected[i].inner[part.value]))) is not None
            )
            for part in self.observation.inner
        ]
        return min(found, default=0)

    def _compared(self, model: ir.Model, chosen: Sequence[int]) -> Comparison | None:
        """A form of the model held against float, or None where it cannot be run."""
        comparison = Comparison(self.observation)
        try:
            opened = self.observation.opened(model)
            session = open_session(opened.model)
            samples = [self.samples[i] for i in chosen]
            for i, (name, found) in zip(
                chosen, run_all(session, opened, samples, self.observation.feedback), strict=True
            ):
                comparison.add(name, self.expected[i], found)
        except ModelError:
            return None
        return comparison

    def complaint(self, model: ir.Model) -> str:
        """Return the runtime's words about a form that it cannot load or run; an empty text if it can."""
        try:
            opened = self.observation.opened(model)
            for _ in run_all(open_session(opened.model), opened, self.samples, self.observation.feedback):
                pass
        except ModelError as error:
            return str(error)
        return ""

    def _ruined(self) -> Judged:
        return Judged((math.inf,) * max(1, len(self.observation.outer)))

    def _judged(self, errors: OutputErrors, chosen: Sequence[int], comparison: Comparison) -> Judged:
        groups = [
            [row for row, i in enumerate(chosen) if (i < self.held_out) is first] for first in (True, False)
        ]
        found = [errors.some(group) for group in groups if group]
        noise: Array = np.max([each.ratios() for each in found], axis=0) if errors.parts else np.zeros(0)
        bound = np.maximum(bounds(errors, of=self.evidence), noise) if errors.parts else noise
        changes = [each.expected() for each in comparison.decisions.values() if each.count]
        return Judged(
            tuple(noise.tolist()),
            tuple(bound.tolist()),
            errors.shares().tolist() if errors.parts else [],
            sum(changes) / max(1, len(changes)),
        )
