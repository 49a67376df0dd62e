"""Sums over samples for one model, and its row in the report."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxq.comparison.errors import decibels
from onnxq.comparison.metrics import aligned
from onnxq.comparison.observation import Comparison, Observation, Observed
from onnxq.data.sample import Sample
from onnxq.evaluation.report import ChangedDecision, ClassRow, ModelScore, PartScore, WorstSample
from onnxq.evaluation.scores.classification import class_of, is_classes
from onnxq.evaluation.scores.score import Case, Score, ScoreOptions, pick
from onnxq.evaluation.scores.uncertainty import measure
from onnxq.evaluation.verification import decision_shares, heavy_samples
from onnxq.graph.files import file_bytes
from onnxq.types import Array, Feeds

WORST_SAMPLES = 10


class Tally:
    """Sums over samples for one model."""

    def __init__(
        self,
        names: Sequence[str],
        observation: Observation,
        scores: list[Score],
        options: ScoreOptions,
        axis: int | None,
    ) -> None:
        self.names, self.scores, self.options, self.axis = names, scores, options, axis
        self.comparison = Comparison(observation)
        self.caches = {observation.taps[part.value].output for part in observation.caches}
        self.cosines = [0.0, 0]
        self.contributions: list[list[object]] = [[] for _ in scores]
        self.decisions = self.agreeing = 0
        self.changed: dict[tuple[int | None, int, int], int] = {}
        self.classes: dict[int, tuple[int, int, int]] = {}
        self.decided: list[tuple[str | None, int | None, int | None]] = []
        self.answer = next((score.answer for score in scores if score.answer is not None), None)
        self.answers: list[tuple[str | None, str | None]] = []
        self.most_classes = 0

    def add(self, sample: Sample, feeds: Feeds, expected: Observed, found: Observed) -> None:
        """Add the values of the float model (`expected`) and of this model (`found`) for one sample."""
        wanted = dict(zip(self.names, expected.own, strict=True))
        case = Case(
            sample.name,
            feeds,
            dict(zip(self.names, found.own, strict=True)),
            sample.label,
            wanted if found is not expected else None,
        )
        for score, kept in zip(self.scores, self.contributions, strict=True):
            contribution = score.contribution(case)
            if contribution is not None:
                kept.append(contribution)
        self.comparison.add(sample.name, expected, found)
        self._add_cosine(expected.own, found.own)
        classes = self._decide(case, pick(case.of_float(), self.options))
        self.decided.append((sample.label, *classes))
        read = self.answer
        self.answers.append((None, None) if read is None else (read(case.of_float()), read(case)))

    def _add_cosine(self, expected: Sequence[Array], found: Sequence[Array]) -> None:
        products = np.zeros(3)
        for number, (want, have) in enumerate(zip(expected, found, strict=True)):
            if number in self.caches:
                continue
            if isinstance(want, np.ndarray) and want.dtype.kind == "f" and np.shape(want) == np.shape(have):
                finite = np.isfinite(want)
                x, y = want[finite].astype(np.float64), have[finite].astype(np.float64)
                products += [x @ y, x @ x, y @ y]
        if products[1] > 0 and products[2] > 0:
            self.cosines[0] += products[0] / np.sqrt(products[1] * products[2])
            self.cosines[1] += 1

    def worst(self) -> list[WorstSample]:
        """Return the samples with the least SQNR, worst first."""
        alone = self.comparison.outer.sample_db()
        rows = sorted((db, row) for row, db in enumerate(alone) if db is not None)[:WORST_SAMPLES]
        return [
            WorstSample(self.comparison.names[row], db, *self.decided[row], *self.answers[row])
            for db, row in rows
        ]

    def _decide(self, case: Case, expected: Array) -> tuple[int | None, int | None]:
        """Count different decisions; return both classes if the sample is one decision."""
        axis = self.axis
        if axis is None or not is_classes(expected, axis):
            return None, None
        self.most_classes = max(self.most_classes, expected.shape[axis])
        # classes from 1; `aligned` fills missing decisions with 0
        wanted, found = aligned(expected.argmax(axis) + 1, pick(case, self.options).argmax(axis) + 1)
        self.decisions += int(np.size(wanted))
        self.agreeing += int(np.count_nonzero(wanted == found))
        if np.size(wanted) != 1:
            return None, None
        before, after = int(wanted.item()) - 1, int(found.item()) - 1
        label = class_of(case) if any(score.name == "top-1" for score in self.scores) else None
        if before != after:
            self.changed[label, before, after] = self.changed.get((label, before, after), 0) + 1
        if label is not None:
            count, right_before, right = self.classes.get(label, (0, 0, 0))
            self.classes[label] = count + 1, right_before + (before == label), right + (after == label)
        return before, after


def score_rows(
    paths: Sequence[Path], tallies: Sequence[Tally], times: Sequence[float | None]
) -> list[ModelScore]:
    """Return a row for each model, the float model first; `times` are latencies in ms."""
    base = [score.rows(kept) for score, kept in zip(tallies[0].scores, tallies[0].contributions, strict=True)]
    rows = []
    for i, (path, tally, latency) in enumerate(zip(paths, tallies, times, strict=True)):
        metrics = {}
        for score, kept, float_rows in zip(tally.scores, tally.contributions, base, strict=True):
            if len(kept):
                metrics[score.name] = measure(score, score.rows(kept), float_rows if i else None)
        changed = [
            ChangedDecision(*key, count)
            for key, count in sorted(tally.changed.items(), key=lambda item: (-item[1], str(item[0])))
        ]
        classes = [
            ClassRow(label, *counts)
            for label, counts in sorted(tally.classes.items())
            if counts[1] != counts[2]
        ]
        rows.append(
            ModelScore(
                model=str(path),
                metrics=metrics,
                agreement=tally.agreeing / tally.decisions if tally.decisions else None,
                sqnr_db=tally.comparison.outer.worst_db(),
                cosine=tally.cosines[0] / tally.cosines[1] if tally.cosines[1] else None,
                max_error=tally.comparison.outer.largest if tally.comparison.outer.measured else None,
                bytes=file_bytes(path),
                latency_ms=latency,
                latency_ratio=latency / times[0] if latency is not None and times[0] else None,
                changed=changed,
                classes=sorted(classes, key=lambda row: row.right - row.float_right),
                worst=tally.worst() if i else [],
                parts=_parts(tally.comparison) if i else [],
                decisions=decision_shares(tally.comparison) if i else [],
                selections=tally.comparison.selected_alike() if i else {},
                sequences=_sequences(tally.comparison),
                caches=tally.comparison.cache_errors() if i else [],
            )
        )
    return rows


def _parts(comparison: Comparison) -> list[PartScore]:
    errors = comparison.outer
    ratios = errors.ratios()
    found = [
        PartScore(errors.parts[i].name, decibels(ratios[i]), heavy_samples(errors, i, comparison.names))
        for i in errors.measured
    ]
    return sorted(found, key=lambda part: part.sqnr_db)


def _sequences(comparison: Comparison) -> int | None:
    feedback = comparison.observation.feedback
    return sum(name in feedback.starts for name in comparison.names) if feedback.states else None
