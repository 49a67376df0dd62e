"""`onnxq eval`: compare a float model with other models over samples, one sample at a time."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from onnxq.cluster.connection import executor_of
from onnxq.comparison.errors import decibels
from onnxq.comparison.feedback import Feedback, evenly, find_feedback
from onnxq.comparison.metrics import Noise, aligned
from onnxq.comparison.observation import SEEN, Comparison, Observation, Observed, Opened, observe, run_all
from onnxq.data.checks import check_samples
from onnxq.data.labels import labelled
from onnxq.data.preprocessing import Forms, read_forms
from onnxq.data.recordings import read_recorded, recorded_outputs
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds, open_samples, spread
from onnxq.errors import DataError, ModelError
from onnxq.evaluation.baseline import read_baseline
from onnxq.evaluation.gates import Gate, at_least, at_most, unchecked
from onnxq.evaluation.origin import file_digests, origin
from onnxq.evaluation.report import ChangedDecision, ClassRow, EvalReport, ModelScore, PartScore, WorstSample
from onnxq.evaluation.scores.classification import class_of, is_classes
from onnxq.evaluation.scores.kinds import KINDS, make_scores
from onnxq.evaluation.scores.score import Case, Score, ScoreOptions, pick
from onnxq.evaluation.scores.uncertainty import measure
from onnxq.evaluation.verification import decision_shares, heavy_samples
from onnxq.graph.files import file_bytes, load
from onnxq.normalize.passes import normalize
from onnxq.options import Limits
from onnxq.runtime.latency import medians_ms
from onnxq.runtime.parallel import IN_PROCESS, Executor, Job
from onnxq.runtime.progress import progress
from onnxq.runtime.random_seeds import unseeded_nodes
from onnxq.runtime.sessions import InputSpec, input_specs, open_session, run
from onnxq.runtime.status import activity
from onnxq.types import Array, Feeds

WORST_SAMPLES = 10
LATENCY_SAMPLES = 4
COMPARED_OUTPUTS, SAME_OUTPUTS_DB = 8, 60.0
"""Samples whose outputs are compared with those that an application saw, and SQNR (dB) of equal ones."""
MIN_LABELS, CHANCE_DEVIATIONS = 20, 2.0
"""Least labels for the test against chance, and standard deviations above chance that pass it."""
DEFAULT_CLASS_AXIS = -1
"""Class axis without a metric."""


@dataclass(frozen=True)
class EvalOptions:
    """Options of `onnxq eval`.

    labels      CSV with the header file,label, or "folders"; None for labels inside the data, if any
    metric      key of `onnxq.evaluation.scores.kinds.KINDS` or module:function; None for classification if
                there are labels
    score       options of the scores
    samples     most samples, evenly spaced; None for all
    threads     intra-op threads during the latency measurement
    latency     whether to measure latency
    preprocess  preset or TOML file for preprocessing
    limits      gates
    states      pairs "input=output" of a stateful model; ("none",) for a stateless one; () detects them
    baseline    earlier report (JSON) to compare with
    cluster     where the models run: as `cluster` of `onnxq.options.QuantizeOptions`
    """

    labels: str | Path | None = None
    metric: str | None = None
    score: ScoreOptions = field(default_factory=ScoreOptions)
    samples: int | None = None
    threads: int = 1
    latency: bool = True
    preprocess: str | None = None
    limits: Limits = field(default_factory=Limits)
    states: tuple[str, ...] = ()
    baseline: Path | None = None
    cluster: Any = None


class EvalKeywords(TypedDict, total=False):
    """Keyword arguments of `onnxq.evaluate`: the fields of `EvalOptions`."""

    labels: str | Path | None
    metric: str | None
    score: ScoreOptions
    samples: int | None
    threads: int
    latency: bool
    preprocess: str | None
    limits: Limits
    states: tuple[str, ...]
    baseline: Path | None
    cluster: Any


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
        self.cosines = [0.0, 0]
        self.contributions: list[list[object]] = [[] for _ in scores]
        self.decisions = self.agreeing = 0
        self.changed: dict[tuple[int | None, int, int], int] = {}
        self.classes: dict[int, tuple[int, int, int]] = {}
        self.decided: list[tuple[str | None, int | None, int | None]] = []
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

    def _add_cosine(self, expected: Sequence[Array], found: Sequence[Array]) -> None:
        products = np.zeros(3)
        for want, have in zip(expected, found, strict=True):
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
        return [WorstSample(self.comparison.names[row], db, *self.decided[row]) for db, row in rows]

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


def evaluate(
    model: Path, others: Sequence[Path], data: Path, options: EvalOptions | None = None
) -> EvalReport:
    """Compare models over samples; memory grows only by a few numbers per sample.

    Args:
        model: the float model.
        others: models to compare with it.
        data: folder or file of samples, or module:function.
        options: see `EvalOptions`.

    Raises:
        OnnxqError: A model, the data or the labels cannot be used.
    """
    start, options = time.perf_counter(), options or EvalOptions()
    if options.limits.min_speedup is not None and not options.latency:
        raise DataError("--min-speedup needs latency: remove --no-latency")
    earlier = read_baseline(options.baseline) if options.baseline is not None else None
    # open the models
    paths = [model, *others]
    with activity("opening the models"):
        models = [load(path) for path in paths]
        sessions = [open_session(path) for path in paths]
    specs = input_specs(sessions[0])
    names = [node.name for node in sessions[0].get_outputs()]
    _check_same_interface(paths, sessions)
    if options.score.output is not None and options.score.output not in names:
        raise DataError(
            f"--output {options.score.output}: the model has no such output: choose one of {', '.join(names)}"
        )
    # choose samples and scores
    forms = read_forms(options.preprocess)
    samples, warnings = evaluated_samples(model, data, specs, forms, options)
    has_labels = any(sample.label for sample in samples)
    kind = options.metric or ("classification" if has_labels else None)
    score_options = _score_options(options, forms)
    axis = _class_axis(kind, score_options)
    # run all models
    with activity("preparing the comparison"):
        feedback = find_feedback(sessions[0], samples, options.states)
        observation, opened = _opened(model, models, samples, specs, feedback)
        if not observation.plain:
            sessions = [open_session(each.model) for each in opened]
    tallies = [
        Tally(
            names,
            observation,
            make_scores(kind, score_options, labelled=has_labels) if kind else [],
            score_options,
            axis,
        )
        for _ in paths
    ]
    comparing = Comparing(opened, specs, observation, _read_inputs(kind, score_options), sessions)
    with activity("comparing the models"), executor_of(options.cluster) as executor:
        data_digest = _run(samples, comparing, tallies, executor)
    del sessions, comparing
    feeds = [check_feeds(sample, specs) for sample in samples[:LATENCY_SAMPLES]] if options.latency else []
    with activity("measuring latency"):
        times = medians_ms(paths, feeds, options.threads) if options.latency else [None] * len(paths)
    # score and check
    with activity("computing scores and their intervals"):
        rows = _rows(paths, tallies, times)
    if earlier is not None:
        rows = [replace(row, before=earlier.get(Path(row.model).name, {})) for row in rows]
    metric = next(iter(rows[0].metrics), None)
    count = sum(bool(sample.label) for sample in samples)
    warnings += _label_warnings(rows[0], tallies[0], samples)
    warnings += _application_warnings(model, data, specs, samples)
    gates = _all_gates(rows, metric, tallies[0].scores, options)
    digests = {name: each for path in paths for name, each in file_digests(str(path), path).items()}
    return EvalReport(
        str(data),
        len(samples),
        count,
        options.score.output or names[0],
        metric,
        rows,
        gates,
        warnings,
        origin(digests | {f"samples of {data}": data_digest}),
        {"eval": time.perf_counter() - start} if options.latency else {},
    )


def _application_warnings(
    model: Path, data: Path, specs: list[InputSpec], samples: Sequence[Sample]
) -> list[str]:
    """Warn where the float model does not answer what the application saw, in a recording with outputs."""
    folder = recorded_outputs(data, specs, model)
    if folder is None:
        return []
    session, noise, count = open_session(model), Noise(), 0
    names = [node.name for node in session.get_outputs()]
    for sample in evenly(samples, COMPARED_OUTPUTS):
        seen = read_recorded(folder, sample.name)
        found = dict(zip(names, run(session, check_feeds(sample, specs), sample.name), strict=True))
        for name, want in seen.items():
            have = found.get(name)
            if want.dtype.kind == "f" and have is not None and have.shape == want.shape:
                noise.add(want, have)
                count += 1
    found_db = noise.sqnr_db()
    if not count or found_db is None or found_db >= SAME_OUTPUTS_DB:
        return []
    return [
        f"the application saw other outputs of the float model (SQNR {found_db:.1f} dB): it runs another "
        "file of the model, other settings or another runtime"
    ]


def _needs_labels(kind: str) -> bool:
    """Tell whether a metric needs labels; a user function does not; unknown names fail later."""
    return KINDS[kind].needs_labels if kind in KINDS else ":" not in kind


def _class_axis(kind: str | None, options: ScoreOptions) -> int | None:
    """Return the class axis of the evaluated output; None if it holds no class decision."""
    if options.class_axis is not None:
        return options.class_axis
    if kind is None:
        return DEFAULT_CLASS_AXIS
    return KINDS[kind].class_axis if kind in KINDS else None


def _score_options(options: EvalOptions, forms: Forms) -> ScoreOptions:
    """Add the labels file and the input names of [preprocess.text] to the options of the scores."""
    labels = Path(options.labels) if options.labels not in (None, "folders") else None
    given = {key: value for key, value in vars(options.score).items() if key not in ("labels", "ids", "mask")}
    return ScoreOptions(**given, labels=labels, ids=forms.text.ids, mask=forms.text.mask)


def evaluated_samples(
    model: Path, data: Path, specs: list[InputSpec], forms: Forms, options: EvalOptions
) -> tuple[list[Sample], list[str]]:
    """Choose the samples to evaluate; return them with warnings about the data.

    Raises:
        DataError: they cannot be read, or have no labels, which the metric needs.
    """
    everything = open_samples(data, specs, forms, options.samples, model)
    chosen = labelled(everything, str(options.labels) if options.labels is not None else None)
    kind = options.metric
    if kind is not None and _needs_labels(kind) and not any(sample.label for sample in chosen):
        raise DataError(f"--metric {kind} needs labels: give --labels FILE, or --labels folders")
    if options.samples is not None and options.metric in KINDS and KINDS[options.metric].pairs:
        pairs = spread(
            [Sample(str(i), chosen[i].load) for i in range(0, len(chosen) - 1, 2)],
            max(1, options.samples // 2),
        )
        chosen = [chosen[int(pair.name) + k] for pair in pairs for k in (0, 1)]
    elif options.samples is not None:
        chosen = spread(chosen, options.samples)
    return chosen, check_samples(chosen, chosen, specs, forms)


def _opened(
    path: Path,
    models: Sequence[ir.Model],
    samples: Sequence[Sample],
    specs: list[InputSpec],
    feedback: Feedback,
) -> tuple[Observation, list[Opened]]:
    """Choose the compared values and expose them as outputs of each model.

    A model with other nodes than the float model is compared at its outputs alone.
    """
    source = normalize(load(path))
    few = [check_feeds(sample, specs) for sample in evenly(samples, SEEN)]
    observation = observe(source, few, feedback)
    if not observation.plain and not all(observation.fits(model) for model in models[1:]):
        observation = observe(source, few, feedback, at_outputs=True)
    return observation, [
        Opened.of(model, observation) for model in (models if observation.plain else [source, *models[1:]])
    ]


def _read_inputs(kind: str | None, options: ScoreOptions) -> frozenset[str] | None:
    """Return the inputs that scores read; None for all. A user's function reads outputs alone."""
    return None if kind in KINDS and KINDS[kind].all_inputs else frozenset({options.ids, options.mask})


def _run(
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


def _check_same_interface(paths: Sequence[Path], sessions: Sequence[ort.InferenceSession]) -> None:
    for path, session in zip(paths[1:], sessions[1:], strict=True):
        for kind, method in (("inputs", "get_inputs"), ("outputs", "get_outputs")):
            expected, found = ([node.name for node in getattr(s, method)()] for s in (sessions[0], session))
            if expected != found:
                raise ModelError(
                    f"{path}: its {kind} are [{', '.join(found)}], but {paths[0]} has "
                    f"[{', '.join(expected)}]: give a model with the same inputs and outputs"
                )


def _check_ranks(
    sample: Sample, names: Sequence[str], expected: Sequence[Array], found: Sequence[Array]
) -> None:
    for name, want, have in zip(names, expected, found, strict=True):
        if np.ndim(want) != np.ndim(have):
            raise ModelError(
                f"sample {sample.name}: output '{name}' has shape {np.shape(have)}, but {np.shape(want)} in "
                "the float model: compare models with outputs of the same rank"
            )


def _rows(paths: Sequence[Path], tallies: Sequence[Tally], times: Sequence[float | None]) -> list[ModelScore]:
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
            )
        )
    return rows


def _label_warnings(row: ModelScore, tally: Tally, samples: Sequence[Sample]) -> list[str]:
    """Warn if labels do not fit the outputs: classes out of range, or a float model no better than chance."""
    top, classes = row.metrics.get("top-1"), tally.most_classes
    if top is None or classes < 2:
        return []
    labels = [class_of(Case(sample.name, {}, {}, sample.label)) for sample in samples if sample.label]
    outside = sorted({label for label in labels if label is not None and not 0 <= label < classes})
    found = (
        [f"labels {_listed(outside)} are not among the output's {classes} classes: check the labels"]
        if outside
        else []
    )
    known = [label for label in labels if label is not None]
    deviation = math.sqrt((1 / classes) * (1 - 1 / classes) / max(1, len(known)))
    if len(known) >= MIN_LABELS and top.value <= 1 / classes + CHANCE_DEVIATIONS * deviation:
        found.append(
            f"the float model predicts {top.value:.1%} of the samples correctly, no better than chance among "
            f"{classes} classes: check labels and preprocessing before you rely on an accuracy gate"
        )
    return found


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:3])) + (", ..." if len(numbers) > 3 else "")


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


def _all_gates(
    rows: Sequence[ModelScore], metric: str | None, scores: Sequence[Score], options: EvalOptions
) -> list[Gate]:
    """Check the limits on all models but the float one, then against the baseline."""
    gates = [gate for row in rows[1:] for gate in _gates(row, rows[0], metric, options.limits)]
    if options.baseline is not None:
        direction = (1 if scores[0].higher else -1) * (100 if scores[0].share else 1) if metric else 1
        for row in rows:
            gates += _baseline_gate(row, metric, direction, options, other=row is not rows[0])
    return gates


def _gates(row: ModelScore, base: ModelScore, metric: str | None, limits: Limits) -> list[Gate]:
    """Check the limits on one model."""
    ratio = row.latency_ratio
    return [
        *_drop_gate(row, metric, limits),
        *at_least("--min-sqnr", row.model, limits.min_sqnr, row.sqnr_db, "SQNR is {:.2f} dB"),
        *at_least(
            "--min-agreement",
            row.model,
            limits.min_agreement,
            row.agreement,
            "agreement with float is {:.4f}",
        ),
        *at_least(
            "--min-speedup",
            row.model,
            limits.min_speedup,
            1 / ratio if ratio else None,
            "speed-up is {:.2f}x",
        ),
        *at_most("--max-size", row.model, limits.max_size, row.bytes / base.bytes, "size is {:.3f} of float"),
    ]


def _baseline_gate(
    row: ModelScore, metric: str | None, direction: int, options: EvalOptions, *, other: bool
) -> list[Gate]:
    """Check --max-drop against the baseline; fail if the baseline lacks the metric of a compared model."""
    name = "--max-drop since --baseline"
    value, earlier = row.metrics.get(metric or ""), row.before.get(metric or "")
    if value is None or earlier is None:
        missing = f"{metric or 'a metric'} of {Path(row.model).name} is not in {options.baseline}"
        return unchecked(name, row.model, options.limits.max_drop, missing) if other else []
    drop = (earlier - value.value) * direction
    return at_most(
        name,
        row.model,
        options.limits.max_drop,
        drop,
        f"{metric} is {{:.2f}} worse than the baseline",
    )


def _drop_gate(row: ModelScore, metric: str | None, limits: Limits) -> list[Gate]:
    value = row.metrics.get(metric or "")
    if value is None or value.p_value is None:
        return at_most("--max-drop", row.model, limits.max_drop, None, "")
    chance = "" if value.significant else f" (not significant: p = {value.p_value:.2f})"
    (gate,) = at_most(
        "--max-drop", row.model, limits.max_drop, value.drop, f"{metric} is {{:.2f}} worse than float{chance}"
    ) or (None,)
    if gate is None:
        return []
    tolerated = limits.significant and not value.significant
    return [Gate(gate.name, gate.model, gate.limit, gate.found, gate.holds or tolerated, gate.line)]
