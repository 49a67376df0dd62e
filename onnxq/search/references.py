"""Reference values of the float model on validation samples, and the noise of candidates against them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from onnxq.comparison.bounds import choosing_bounds
from onnxq.comparison.errors import OutputErrors, decibels
from onnxq.comparison.feedback import Feedback, evenly
from onnxq.comparison.observation import (
    Comparison,
    Observation,
    Observed,
    Opened,
    observe_values,
    run_all,
)
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds
from onnxq.errors import ModelError
from onnxq.formats.toggles import ToggleModel
from onnxq.plan.plan import Plan
from onnxq.runtime.disk_list import DiskList
from onnxq.runtime.sessions import InputSpec
from onnxq.search.budget import Budget
from onnxq.types import Array, Feeds

ADDED_SAMPLES, MAX_STATEFUL_SAMPLES = 2, 20
"""Samples added, at most, where some do not show all noise; samples of a stateful model, at most."""
RARE = 0.02
"""Share of the samples in which scores may jump while files are chosen; the claim counts all of them."""
STANDARD_ERRORS = 1.01
"""Standard errors within which two candidates count as alike; a single differing sample makes exactly one."""


@dataclass(frozen=True)
class OutputNoise:
    """Noise of a candidate's outputs against float on the validation samples.

    noise    noise / signal of each part of the outputs: the larger of the ratios on validation samples and on
             the others; infinite where the runtime cannot load or run the candidate
    bound    the same with a margin for new samples
    samples  contribution of each sample to each part's ratio, [samples, parts]
    changes  share of decisions that noise of this size is expected to change, 0..1
    """

    noise: Sequence[float]
    bound: Sequence[float] = ()
    samples: Sequence[Sequence[float]] = ()
    changes: float = 0.0

    @property
    def sqnr_db(self) -> float:
        """SQNR of the worst part, dB; -200 where the candidate cannot run."""
        return decibels(max(self.noise, default=0.0))

    @property
    def bound_db(self) -> float:
        """SQNR of the worst part that is expected on new samples, dB."""
        return decibels(max(self.bound or self.noise, default=0.0))

    @property
    def mean_noise(self) -> float:
        """Mean over the parts: the worst part counts most, but does not hide the others."""
        return sum(self.noise) / max(1, len(self.noise))

    def as_good_as(self, other: "OutputNoise") -> bool:
        """Tell whether the noise is at most one standard error above another candidate's.

        The standard error is that of the difference, sample by sample. This is the one-standard-error rule
        (Breiman et al., Classification and Regression Trees, 1984): among models within one standard error of
        the best, take the simplest.
        """
        if not self.samples or len(self.samples) != len(other.samples):
            return False
        with np.errstate(invalid="ignore"):
            differences = np.mean(np.asarray(self.samples) - np.asarray(other.samples), axis=1)
        if not np.isfinite(differences).all():
            return False
        count = len(differences)
        deviation = differences.std(ddof=min(1, count - 1))
        return bool(differences.sum() <= STANDARD_ERRORS * math.sqrt(count) * deviation)


@dataclass(frozen=True, eq=False)
class Toggled:
    """A toggle model in an open session.

    toggles  the model and its additional inputs
    opened   the model with all compared values among its outputs
    session  its session
    """

    toggles: ToggleModel
    opened: Opened
    session: ort.InferenceSession


@dataclass(frozen=True)
class References:
    """Validation samples with the float model's values.

    observation           compared values and their parts
    names, feeds          names and inputs of the samples, in their order
    expected              the float model's values of each sample
    held_out              number of validation samples, which come first; calibration samples follow where
                          these are few
    verification_samples  number of samples on which the written file will be verified
    budget                counts the runs of the search
    """

    observation: Observation
    names: Sequence[str]
    feeds: DiskList[Feeds]
    expected: DiskList[Observed]
    held_out: int
    verification_samples: int = 0
    budget: Budget = field(default_factory=Budget)

    @staticmethod
    def of(
        model: ir.Model,
        held_out: Sequence[Sample],
        others: Sequence[Sample],
        specs: list[InputSpec],
        feedback: Feedback | None = None,
        verification_samples: int = 0,
    ) -> "References":
        """Run the float model over validation samples and others."""
        everything = (*held_out, *others)
        names = [sample.name for sample in everything]
        feeds = DiskList((check_feeds(sample, specs) for sample in everything), dict.values)
        observation, expected = observe_values(model, feeds, feedback)
        if observation.feedback.states or len(names) > len(expected):
            opened = observation.opened(model)
            runs = run_all(observation.session(opened), opened, zip(names, feeds, strict=True), observation)
            expected = DiskList((values for _, values in runs), Observed.arrays)
        return References(observation, names, feeds, expected, len(held_out), verification_samples)

    @property
    def size(self) -> int:
        """Bytes of all inputs and observed values; an array that occurs twice in a sample counts once."""
        return self.feeds.bytes + self.expected.bytes

    # measurement of a candidate

    def measure(self, model: ir.Model, *, at_outputs: bool = True) -> OutputNoise:
        """Measure the noise of a candidate's outputs on all samples.

        The worse of two ratios counts: validation samples can look good by chance where they are few, and
        calibration samples look good because the candidate was made from them. Behind a Softmax, noise comes
        from the one or two decisions that change.

        Args:
            model: the candidate.
            at_outputs: take the bound of the outputs. Otherwise it is the bound in front of a final Softmax,
                or the expected share of changed decisions where that is larger: a share of 0.01 counts as
                much as 20 dB.
        """
        everything = range(len(self.names))
        comparison = self._compare(model, everything)
        if comparison is None:
            return self._failed()
        outer = self._noise_of(comparison.outer, everything, comparison)
        if at_outputs or not self._has_inner_bound:
            return outer
        inner = self._noise_of(comparison.inner, everything, comparison)
        changes = {number: each.expected() for number, each in comparison.decisions.items() if each.count}
        bound = [
            max(noise, changes.get(part.value, 0.0))
            for part, noise in zip(self.observation.inner, inner.bound, strict=True)
        ]
        return replace(outer, bound=tuple(bound))

    def measure_before_softmax(self, model: ir.Model, indices: Sequence[int] | None = None) -> OutputNoise:
        """Measure the noise in front of a final Softmax, which hides differences between candidates.

        Args:
            model: the candidate.
            indices: samples to measure; all by default.
        """
        indices = range(len(self.names)) if indices is None else indices
        comparison = self._compare(model, indices)
        return self._failed() if comparison is None else self._noise_of(comparison.inner, indices, comparison)

    def toggled(self, toggles: ToggleModel) -> Toggled | None:
        """Open a session of a toggle model; None where it cannot be loaded, or lacks compared values."""
        if not self.observation.fits(toggles.model):
            return None
        try:
            opened = self.observation.opened(toggles.model)
            session = self.observation.session(opened, integer_kernels=False)
        except ModelError:
            return None
        return Toggled(toggles, opened, session)

    def measure_toggled(self, toggled: Toggled, plan: Plan, indices: Sequence[int]) -> OutputNoise:
        """Measure the noise of a plan in front of a final Softmax in a toggle model."""
        try:
            flags = toggled.toggles.flags(plan)
            comparison = self._compare_runs(toggled.opened, toggled.session, indices, flags)
        except ModelError:
            return self._failed()
        return self._noise_of(comparison.inner, indices, comparison)

    def bound_db(self, model: ir.Model) -> float:
        """Measure the SQNR of the outputs that is expected on new samples, dB."""
        return self.measure(model).bound_db

    def sqnr_db(self, model: ir.Model) -> float:
        """Measure the SQNR of the outputs' worst part, dB."""
        return self.measure(model).sqnr_db

    # samples for the measurement of single nodes

    def representative_samples(self, measured: OutputNoise, count: int) -> list[int]:
        """Return the indices of a few samples that together show the noise of every part.

        These are evenly spaced samples. Where they carry less than half of their share of a part's noise, the
        sample that carries most of it is added: a detector's score, for example, is near zero in most images.
        In a stateful model each sample depends on the samples before it, so the first ones are taken.

        Args:
            measured: noise of the candidate on all samples.
            count: number of evenly spaced samples.
        """
        available = len(self.names)
        if self.observation.feedback.states:
            return list(range(min(MAX_STATEFUL_SAMPLES, available)))
        chosen = evenly(range(available), count)
        noise = np.asarray(measured.samples, float)
        if noise.ndim != 2 or not np.isfinite(noise).all():
            return chosen
        shares = noise / np.maximum(noise.sum(0), 1e-30)
        while len(chosen) < min(available, count + ADDED_SAMPLES):
            carried = shares[chosen].sum(0)
            part = int(np.argmin(carried))
            if carried[part] >= len(chosen) / available / 2:
                break
            others = (i for i in range(available) if i not in chosen)
            chosen.append(max(others, key=lambda i: (shares[i, part], -i)))
        return sorted(chosen)

    def fewest_values(self, indices: Sequence[int]) -> int:
        """Count the values of the smallest part over some samples."""
        counts = []
        for part in self.observation.inner:
            taken = (part.of(np.asarray(self.expected[i].inner[part.value])) for i in indices)
            counts.append(sum(values.size for values in taken if values is not None))
        return min(counts, default=0)

    # steps

    @property
    def _has_inner_bound(self) -> bool:
        """Whether each part of the outputs has a counterpart in front of a final Softmax."""
        observation = self.observation
        return observation.has_final_softmax and len(observation.inner) == len(observation.outer)

    def _compare(self, model: ir.Model, indices: Sequence[int]) -> Comparison | None:
        """Run a candidate and compare its values with float; None where it cannot run."""
        try:
            opened = self.observation.opened(model)
            return self._compare_runs(opened, self.observation.session(opened), indices)
        except ModelError:
            return None

    def _compare_runs(
        self, opened: Opened, session: ort.InferenceSession, indices: Sequence[int], more: Feeds | None = None
    ) -> Comparison:
        """Run an opened form, with more feeds than those of the samples, and compare its values with float.

        Raises:
            ModelError: it fails on a sample.
        """
        comparison = Comparison(self.observation)
        samples = ((self.names[i], self.feeds[i] | (more or {})) for i in indices)
        found = run_all(session, opened, samples, self.observation)
        for i, (name, values) in zip(indices, found, strict=True):
            comparison.add(name, self.expected[i], values)
            self.budget.spend()
        return comparison

    def complaint(self, model: ir.Model) -> str:
        """Return the runtime's words about a form that it cannot load or run; an empty text if it can."""
        try:
            opened = self.observation.opened(model)
            session = self.observation.session(opened)
            for _ in run_all(session, opened, zip(self.names, self.feeds, strict=True), self.observation):
                pass
        except ModelError as error:
            return str(error)
        return ""

    def _failed(self) -> OutputNoise:
        """Return the noise of a candidate that cannot run: nodes left in float may help."""
        return OutputNoise((math.inf,) * max(1, len(self.observation.outer)))

    def _noise_of(self, errors: OutputErrors, indices: Sequence[int], comparison: Comparison) -> OutputNoise:
        """Summarize the errors of some samples."""
        changes = [each.expected() for each in comparison.decisions.values() if each.count]
        mean_changes = sum(changes) / max(1, len(changes))
        if not errors.parts:
            return OutputNoise((), (), [], mean_changes)
        in_front = errors is comparison.inner and errors is not comparison.outer
        errors = errors.capped(RARE)
        noise = self._worse_ratios(errors, indices, self._signal_per_value[0 if in_front else 1])
        bound = np.maximum(choosing_bounds(errors, self.verification_samples), noise)
        shares = errors.shares().tolist()
        return OutputNoise(tuple(noise.tolist()), tuple(bound.tolist()), shares, mean_changes)

    def _worse_ratios(self, errors: OutputErrors, indices: Sequence[int], signal: Array) -> Array:
        """Return noise / signal of each part on validation samples or on the others, the larger of both.

        `signal`, of a value of each part, is that of all samples: a few of them may have none, such as images
        without an object.
        """
        held_out = [row for row, i in enumerate(indices) if i < self.held_out]
        others = [row for row, i in enumerate(indices) if i >= self.held_out]
        ratios = [errors.some(rows).ratios_to(signal) for rows in (held_out, others) if rows]
        return np.asarray(np.max(ratios, axis=0))

    @cached_property
    def _signal_per_value(self) -> tuple[Array, Array]:
        """Mean signal of one value of each inner part, and of each outer part, over all samples."""
        inner, outer = OutputErrors(self.observation.inner), OutputErrors(self.observation.outer)
        for values in self.expected:
            inner.add(values.inner, values.inner)
            outer.add(values.outer, values.outer)
        return inner.signal_per_value(), outer.signal_per_value()
