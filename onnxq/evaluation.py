"""`onnxq eval`: a float model against one or more others, over a folder of samples, one at a time."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tqdm import tqdm

from onnxq.baseline import read_baseline
from onnxq.data.checks import check_samples
from onnxq.data.forms import Forms, read_forms
from onnxq.data.labels import labelled
from onnxq.data.samples import check_feeds, open_samples, spread
from onnxq.data.source import Sample
from onnxq.errors import DataError, ModelError
from onnxq.gates import Gate, Limits, at_least, at_most
from onnxq.latency import medians_ms
from onnxq.metrics import OutputError, aligned
from onnxq.model.files import file_bytes, load
from onnxq.model.runtime import InputSpec, input_specs, open_session, run
from onnxq.report.scores import Changed, ClassRow, EvalReport, ModelScore, Worst
from onnxq.schemes import Array, Feeds
from onnxq.scores.classification import class_of, is_classes
from onnxq.scores.kinds import UNLABELLED, make_scores
from onnxq.scores.score import Case, Score, ScoreOptions, pick
from onnxq.scores.uncertainty import measure

WORST = 10
DECIDING = {"": -1, "classification": -1, "text": -1, "perplexity": -1, "segmentation": 1}
"""Kinds of scores whose outputs are decisions, with their axis of classes."""


@dataclass(frozen=True)
class EvalOptions:
    """What to compare, and how.

    labels      CSV with the header file,label, or "folders"; None for the labels that the data brings, if any
    metric      kind of score (`onnxq.scores.kinds`) or module:function; None: classification where there are labels
    score       what the kind needs to know
    samples     at most so many, evenly spaced; None for all
    threads     the runtime's threads while latency is measured
    latency     whether it is measured
    preprocess  preset or TOML file that says how a file becomes an input
    limits      gates
    baseline    an earlier report (JSON) to compare with
    """

    labels: str | Path | None = None
    metric: str | None = None
    score: ScoreOptions = field(default_factory=ScoreOptions)
    samples: int | None = None
    threads: int = 1
    latency: bool = True
    preprocess: str | None = None
    limits: Limits = field(default_factory=Limits)
    baseline: Path | None = None


class Tally:
    """What is added up for one model, sample by sample."""

    def __init__(self, names: Sequence[str], scores: list[Score], options: ScoreOptions, axis: int | None) -> None:
        self.names, self.scores, self.options, self.axis = names, scores, options, axis
        self.error = OutputError(names)
        self.contributions: list[list[object]] = [[] for _ in scores]
        self.decisions = self.agreeing = 0
        self.changed: dict[tuple[int | None, int, int], int] = {}
        self.classes: dict[int, tuple[int, int, int]] = {}
        self.worst: list[tuple[float, int, Worst]] = []
        self.seen = 0

    def add(self, sample: Sample, feeds: Feeds, expected: Sequence[Array], found: Sequence[Array]) -> None:
        """Add one sample: the float model's outputs and this model's."""
        case = Case(sample.name, feeds, dict(zip(self.names, found, strict=True)), sample.label)
        for score, kept in zip(self.scores, self.contributions, strict=True):
            contribution = score.contribution(case)
            if contribution is not None:
                kept.append(contribution)
        self.error.add(expected, found)
        classes = self._decide(case, pick(Case(case.name, feeds, dict(zip(self.names, expected, strict=True)), case.label), self.options))
        alone = OutputError(self.names)
        alone.add(expected, found)
        distance = alone.sqnr_db()
        if distance is not None:
            self.seen += 1
            heapq.heappush(self.worst, (-distance, -self.seen, Worst(sample.name, distance, sample.label, *classes)))
            if len(self.worst) > WORST:
                heapq.heappop(self.worst)

    def _decide(self, case: Case, expected: Array) -> tuple[int | None, int | None]:
        """Count the decisions that differ; the two classes where a sample is one decision."""
        axis = self.axis
        if axis is None or not is_classes(expected, axis):
            return None, None
        # counted from 1: 0 is where one of them decides nothing
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


def evaluate(model: Path, others: Sequence[Path], data: Path, options: EvalOptions | None = None) -> EvalReport:
    """Compare models over a data folder; memory does not grow with the number of samples, but by a few numbers each.

    Raises:
        OnnxqError: a model, the data or the labels cannot be used.
    """
    options = options or EvalOptions()
    earlier = read_baseline(options.baseline) if options.baseline is not None else None
    paths = [model, *others]
    for path in paths:
        load(path)
    sessions = [open_session(path) for path in paths]
    specs = input_specs(sessions[0])
    names = [node.name for node in sessions[0].get_outputs()]
    _check_same_interface(paths, sessions)
    if options.score.output is not None and options.score.output not in names:
        raise DataError(f"--output {options.score.output}: the model's outputs are {', '.join(names)}")
    forms = read_forms(options.preprocess)
    samples, warnings = evaluated_samples(data, specs, forms, options)
    kind = options.metric or ("classification" if any(sample.label for sample in samples) else None)
    if kind is not None and kind not in UNLABELLED and ":" not in kind and not any(sample.label for sample in samples):
        raise DataError(f"--metric {kind} needs labels: give --labels FILE, or --labels folders")
    known = _known(options, forms)
    axis = DECIDING.get(kind or "") if options.score.class_axis is None else options.score.class_axis
    tallies = [Tally(names, make_scores(kind, known) if kind else [], known, axis) for _ in paths]
    kept = _run(samples, specs, sessions, tallies)
    times = medians_ms(paths, kept, options.threads) if options.latency else [None] * len(paths)
    rows = _rows(paths, tallies, times)
    if earlier is not None:
        rows = [replace(row, before=earlier.get(Path(row.model).name, {})) for row in rows]
    metric = next(iter(rows[0].metrics), None)
    count = sum(bool(sample.label) for sample in samples)
    gates = [gate for row in rows[1:] for gate in _gates(row, rows[0], metric, options.limits)]
    direction = next((1 if score.higher else -1) * (100 if score.share else 1) for score in tallies[0].scores) if metric else 1
    gates += [gate for row in rows for gate in _baseline_gate(row, metric, direction, options.limits)]
    return EvalReport(str(data), len(samples), count, options.score.output or names[0], metric, rows, gates, warnings)


def _known(options: EvalOptions, forms: Forms) -> ScoreOptions:
    """What scores need to know, with what the labels and [preprocess] say."""
    labels = Path(options.labels) if options.labels not in (None, "folders") else None
    given = {key: value for key, value in vars(options.score).items() if key not in ("labels", "ids", "mask")}
    return ScoreOptions(**given, labels=labels, ids=forms.text.ids, mask=forms.text.mask)


def evaluated_samples(data: Path, specs: list[InputSpec], forms: Forms, options: EvalOptions) -> tuple[list[Sample], list[str]]:
    """The samples to evaluate, and what is odd about them."""
    everything = open_samples(data, specs, forms, options.samples)
    chosen = labelled(everything, str(options.labels) if options.labels is not None else None)
    if options.samples is not None and options.metric == "embedding":
        pairs = spread([Sample(str(i), chosen[i].load) for i in range(0, len(chosen) - 1, 2)], max(1, options.samples // 2))
        chosen = [chosen[int(pair.name) + k] for pair in pairs for k in (0, 1)]
    elif options.samples is not None:
        chosen = spread(chosen, options.samples)
    return chosen, check_samples(chosen, chosen, specs, forms)


def _run(samples: list[Sample], specs: list[InputSpec], sessions: Sequence[ort.InferenceSession], tallies: Sequence[Tally]) -> list[Feeds]:
    """Run every sample through every model; the first feeds are given back, to measure latency with."""
    kept: list[Feeds] = []
    for sample in tqdm(samples, desc="eval", unit="sample", disable=None):
        feeds = check_feeds(sample, specs)
        kept = [*kept, feeds][:4]
        results = [run(session, feeds, sample.name) for session in sessions]
        for tally, result in zip(tallies, results, strict=True):
            _check_ranks(sample, tally.names, results[0], result)
            tally.add(sample, feeds, results[0], result)
    return kept


def _check_same_interface(paths: Sequence[Path], sessions: Sequence[ort.InferenceSession]) -> None:
    for path, session in zip(paths[1:], sessions[1:], strict=True):
        for what, of in (("inputs", "get_inputs"), ("outputs", "get_outputs")):
            expected, found = ([node.name for node in getattr(s, of)()] for s in (sessions[0], session))
            if expected != found:
                raise ModelError(f"{path}: its {what} are [{', '.join(found)}], those of {paths[0]} are [{', '.join(expected)}]")


def _check_ranks(sample: Sample, names: Sequence[str], expected: Sequence[Array], found: Sequence[Array]) -> None:
    for name, want, have in zip(names, expected, found, strict=True):
        if np.ndim(want) != np.ndim(have):
            raise ModelError(f"sample {sample.name}: output '{name}' has shapes {np.shape(want)} and {np.shape(have)}")


def _rows(paths: Sequence[Path], tallies: Sequence[Tally], times: Sequence[float | None]) -> list[ModelScore]:
    base = [score.rows(kept) for score, kept in zip(tallies[0].scores, tallies[0].contributions, strict=True)]
    rows = []
    for i, (path, tally, latency) in enumerate(zip(paths, tallies, times, strict=True)):
        metrics = {}
        for score, kept, float_rows in zip(tally.scores, tally.contributions, base, strict=True):
            if len(kept):
                metrics[score.name] = measure(score, score.rows(kept), float_rows if i else None)
        changed = [Changed(*key, count) for key, count in sorted(tally.changed.items(), key=lambda item: (-item[1], str(item[0])))]
        classes = [ClassRow(label, *counts) for label, counts in sorted(tally.classes.items()) if counts[1] != counts[2]]
        rows.append(
            ModelScore(
                model=str(path),
                metrics=metrics,
                agreement=tally.agreeing / tally.decisions if tally.decisions else None,
                sqnr_db=tally.error.sqnr_db(),
                cosine=tally.error.cosine(),
                max_error=tally.error.largest if tally.error.signal else None,
                bytes=file_bytes(path),
                latency_ms=latency,
                latency_ratio=latency / times[0] if latency is not None and times[0] else None,
                changed=changed,
                classes=sorted(classes, key=lambda row: row.right - row.float_right),
                worst=[worst for _, _, worst in sorted(tally.worst, reverse=True)] if i else [],
            )
        )
    return rows


def _gates(row: ModelScore, base: ModelScore, metric: str | None, limits: Limits) -> list[Gate]:
    """The conditions on one model."""
    ratio = row.latency_ratio
    return [
        *_drop_gate(row, metric, limits),
        *at_least("--min-sqnr", row.model, limits.min_sqnr, row.sqnr_db, "SQNR is {:.2f} dB"),
        *at_least("--min-agreement", row.model, limits.min_agreement, row.agreement, "agreement with float is {:.4f}"),
        *at_least("--min-speedup", row.model, limits.min_speedup, 1 / ratio if ratio else None, "speed-up is {:.2f}x"),
        *at_most("--max-size", row.model, limits.max_size, row.bytes / base.bytes, "size is {:.3f} of float"),
    ]


def _baseline_gate(row: ModelScore, metric: str | None, direction: int, limits: Limits) -> list[Gate]:
    """--max-drop holds since the baseline too."""
    value, earlier = row.metrics.get(metric or ""), row.before.get(metric or "")
    if value is None or earlier is None:
        return []
    drop = (earlier - value.value) * direction
    return at_most("--max-drop since --baseline", row.model, limits.max_drop, drop, f"{metric} is {{:.2f}} below the baseline")


def _drop_gate(row: ModelScore, metric: str | None, limits: Limits) -> list[Gate]:
    value = row.metrics.get(metric or "")
    if value is None or value.p_value is None:
        return at_most("--max-drop", row.model, limits.max_drop, None, "")
    chance = "" if value.significant else f" (not more than chance: p = {value.p_value:.2f})"
    (gate,) = at_most("--max-drop", row.model, limits.max_drop, value.drop, f"{metric} is {{:.2f}} below float{chance}") or (None,)
    if gate is None:
        return []
    excused = limits.significant and not value.significant
    return [Gate(gate.name, gate.model, gate.limit, gate.found, gate.holds or excused, gate.line)]
