"""What candidates are held against: held-out samples with the float model's values at its ends."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.data.samples import check_feeds
from onnxq.data.source import Sample
from onnxq.errors import ModelError
from onnxq.metrics import MAX_DB, OutputError, noise_shares
from onnxq.model.runtime import InputSpec, open_session, run
from onnxq.schemes import Array, Feeds

ERRORS = 1.01
"""Standard errors within which forms are told apart by chance alone: one is what a single sample that differs makes."""
VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast"})


@dataclass(frozen=True)
class Tap:
    """An output, and the Softmax, by name, that it comes from, if it does.

    A Softmax hides what is off by little and shows a decision that tips as a large error: over a few
    samples, its input says more.
    """

    output: int
    softmax: str | None

    def inner(self, model: ir.Model) -> ir.Value:
        """The Softmax's input in a form of the model, or the output itself."""
        node = next((node for node in model.graph if node.name == self.softmax), None) if self.softmax else None
        value = node.inputs[0] if node is not None else None
        return value or model.graph.outputs[self.output]


def _taps(model: ir.Model) -> list[Tap]:
    taps = []
    for index, output in enumerate(model.graph.outputs):
        node = output.producer()
        while node is not None and node.op_type in VIEWS:
            node = node.inputs[0].producer() if node.inputs[0] is not None else None
        found = node is not None and node.op_type in ("Softmax", "LogSoftmax") and node.graph is model.graph
        taps.append(Tap(index, node.name if found and node is not None else None))
    return taps


@dataclass(frozen=True)
class Judged:
    """How close a form of the model comes.

    sqnr_db   in dB: on the held-out samples, or on the others if it is worse there; -200 where the runtime cannot load or run it,
              whatever the reason: other nodes left float may help
    error_db  how many dB one standard error of the samples that decide is worth
    shares    what each sample adds to the ratio of noise to signal over all of them
    """

    sqnr_db: float
    error_db: float = 0.0
    shares: Sequence[float] = ()

    def as_good_as(self, other: "Judged") -> bool:
        """Whether it is no more than one standard error of their difference, sample by sample, farther from float.

        The one-standard-error rule (Breiman et al., Classification and Regression Trees, 1984): of what can hardly be told apart
        take the simplest.
        """
        if not self.shares or len(self.shares) != len(other.shares):
            return False
        differences = np.array([mine - its for mine, its in zip(self.shares, other.shares, strict=True)])
        if not np.isfinite(differences).all():
            return False
        return bool(differences.sum() <= ERRORS * math.sqrt(len(differences)) * differences.std(ddof=min(1, len(differences) - 1)))


@dataclass(frozen=True)
class References:
    """Samples with what the float model gives.

    outer, inner  outputs, and the values in front of a final Softmax, a list a sample
    held_out      how many of the samples, the first ones, are; where they are few, others follow that calibrate
    """

    taps: Sequence[Tap]
    feeds: Sequence[Feeds]
    outer: Sequence[Sequence[Array]]
    inner: Sequence[Sequence[Array]]
    held_out: int

    @staticmethod
    def of(model: ir.Model, held_out: Sequence[Sample], others: Sequence[Sample], specs: list[InputSpec]) -> "References":
        """Run a float model over samples."""
        samples = [*held_out, *others]
        taps = _taps(model)
        copy, columns = _both_ends(model, taps)
        session = open_session(copy)
        feeds = [check_feeds(sample, specs) for sample in samples]
        found = [run(session, feed, sample.name) for sample, feed in zip(samples, feeds, strict=True)]
        outer = [values[: len(taps)] for values in found]
        inner = [[values[column] for column in columns] for values in found]
        return References(taps, feeds, outer, inner, len(held_out))

    @property
    def size(self) -> int:
        """Bytes of what goes in and comes out."""
        feeds = [array for sample in self.feeds for array in sample.values()]
        outputs = [array for values in (self.outer, self.inner) for sample in values for array in sample]
        return sum({id(array): array.nbytes for array in (*feeds, *outputs) if isinstance(array, np.ndarray)}.values())

    def judged(self, model: ir.Model) -> Judged:
        """How close a form of the model's outputs come to float's.

        Held-out samples flatter by chance where they are few, calibration samples by what was made from them: the worse counts.
        """
        return self._compare(model, self.outer, len(self.feeds))

    def sqnr_db(self, model: ir.Model) -> float:
        """The same in dB alone."""
        return self.judged(model).sqnr_db

    def inner_judged(self, model: ir.Model, most: int | None = None) -> Judged:
        """The same in front of a final Softmax, over the first few samples or all: it tells apart what a Softmax hides."""
        copy, columns = _both_ends(model, self.taps)
        values = [copy.graph.outputs[column] for column in columns]
        copy.graph.outputs.clear()
        copy.graph.outputs.extend(values)
        return self._compare(copy, self.inner, len(self.feeds) if most is None else most)

    def inner_sqnr_db(self, model: ir.Model, most: int) -> float:
        """The same in dB alone."""
        return self.inner_judged(model, most).sqnr_db

    def _compare(self, model: ir.Model, references: Sequence[Sequence[Array]], most: int) -> Judged:
        pairs = list(zip(self.feeds, references, strict=True))[:most]
        groups = [group for group in (pairs[: self.held_out], pairs[self.held_out :]) if group]
        found = []
        try:
            session = open_session(model)
            for group in groups:
                found.append(OutputError([str(tap.output) for tap in self.taps]))
                for feeds, expected in group:
                    found[-1].add(expected, run(session, feeds, "a sample"))
        except ModelError:
            return Judged(-MAX_DB)
        worse = min(found, key=lambda error: error.sqnr_db() or 0.0)
        return Judged(worse.sqnr_db() or 0.0, worse.standard_error_db(), noise_shares([own for error in found for own in error.samples]))


def _both_ends(model: ir.Model, taps: Sequence[Tap]) -> tuple[ir.Model, list[int]]:
    """A copy whose outputs are the model's and the inner ones, and for each tap the number of its inner one."""
    copy = model.clone()
    values = [tap.inner(copy) for tap in taps]
    copy.graph.outputs.extend(value for value in dict.fromkeys(values) if value not in copy.graph.outputs)
    outputs = list(copy.graph.outputs)
    return copy, [outputs.index(value) for value in values]
