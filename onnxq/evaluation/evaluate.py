"""`onnxq eval`: compare a float model with other models over samples, one sample at a time."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

import onnx_ir as ir
import onnxruntime as ort

from onnxq.cluster.connection import executor_of
from onnxq.comparison.feedback import Feedback, evenly, find_feedback
from onnxq.comparison.metrics import Noise
from onnxq.comparison.observation import SEEN, Observation, Opened, observe
from onnxq.comparison.taps import Tap
from onnxq.data.checks import check_samples
from onnxq.data.labels import labelled
from onnxq.data.preprocessing import Forms, read_forms
from onnxq.data.recordings import read_recorded, recorded_outputs
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds, open_samples, spread
from onnxq.errors import DataError, ModelError
from onnxq.evaluation.baseline import read_baseline
from onnxq.evaluation.class_axis import find_class_axis
from onnxq.evaluation.comparing import Comparing, run_all_models
from onnxq.evaluation.eval_gates import eval_gates
from onnxq.evaluation.origin import file_digests, origin
from onnxq.evaluation.report import EvalReport, ModelScore
from onnxq.evaluation.scores.classification import class_of
from onnxq.evaluation.scores.kinds import KINDS, make_scores
from onnxq.evaluation.scores.score import Case, Score, ScoreOptions
from onnxq.evaluation.tally import Tally, score_rows
from onnxq.graph.files import load
from onnxq.normalize.passes import normalize
from onnxq.options import Limits
from onnxq.runtime.blas import one_thread
from onnxq.runtime.latency import medians_ms
from onnxq.runtime.random_seeds import unseeded_nodes
from onnxq.runtime.sessions import InputSpec, input_specs, open_session, run
from onnxq.runtime.status import activity

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


@one_thread()
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
    specs, names = input_specs(sessions[0]), [node.name for node in sessions[0].get_outputs()]
    _check_interfaces(paths, sessions, options.score.output)
    # choose samples and scores
    forms = read_forms(options.preprocess)
    samples, warnings = evaluated_samples(model, data, specs, forms, options)
    count = sum(bool(sample.label) for sample in samples)
    scoring = _Scoring.of(options, forms, labelled=count > 0)
    # run all models
    with activity("preparing the comparison"):
        feedback = find_feedback(sessions[0], samples, options.states)
        observation, opened, taps = _opened(model, models, samples, specs, feedback)
        if not observation.plain:
            sessions = [open_session(each.model) for each in opened]
    axis = scoring.axis
    if scoring.guesses and options.limits.min_agreement is None:
        output = scoring.options.output or names[0]
        # a session that draws random numbers would go on with others
        looked_at = open_session(model) if unseeded_nodes(models[0]) else sessions[0]
        axis = find_class_axis(looked_at, samples, specs, taps, output)
    tallies = [Tally(names, observation, scoring.scores(), scoring.options, axis) for _ in paths]
    comparing = Comparing(opened, specs, observation, scoring.inputs, sessions)
    with activity("comparing the models"), executor_of(options.cluster) as executor:
        data_digest = run_all_models(samples, comparing, tallies, executor)
    del sessions, comparing
    times = _latencies(paths, samples, specs, options)
    # score and check
    with activity("computing scores and their intervals"):
        rows = score_rows(paths, tallies, times)
    if earlier is not None:
        rows = [replace(row, before=earlier.get(Path(row.model).name, {})) for row in rows]
    metric = next(iter(rows[0].metrics), None)
    warnings += _label_warnings(rows[0], tallies[0], samples)
    warnings += _application_warnings(model, data, specs, samples)
    digests = {name: each for path in paths for name, each in file_digests(str(path), path).items()}
    return EvalReport(
        str(data),
        len(samples),
        count,
        options.score.output or names[0],
        metric,
        rows,
        eval_gates(rows, metric, tallies[0].scores, options.limits, options.baseline),
        warnings,
        origin(digests | {f"samples of {data}": data_digest}),
        {"eval": time.perf_counter() - start} if options.latency else {},
    )


@dataclass(frozen=True)
class _Scoring:
    """The scores of an evaluation.

    kind      key of `KINDS` or module:function; None for no scores
    options   options of the scores
    labelled  whether any sample has a label
    """

    kind: str | None
    options: ScoreOptions
    labelled: bool

    @staticmethod
    def of(options: EvalOptions, forms: Forms, *, labelled: bool) -> "_Scoring":
        kind = options.metric or ("classification" if labelled else None)
        return _Scoring(kind, _score_options(options, forms), labelled)

    def scores(self) -> list[Score]:
        """Return new scores."""
        return make_scores(self.kind, self.options, labelled=self.labelled) if self.kind else []

    @property
    def guesses(self) -> bool:
        """Whether neither an option nor a metric says along which axis an output decides."""
        return self.options.class_axis is None and self.kind is None

    @property
    def axis(self) -> int | None:
        """The class axis of the evaluated output; None if it holds no class decision."""
        if self.options.class_axis is not None:
            return self.options.class_axis
        if self.kind is None:
            return DEFAULT_CLASS_AXIS
        return KINDS[self.kind].class_axis if self.kind in KINDS else None

    @property
    def inputs(self) -> frozenset[str] | None:
        """Inputs that scores read; None for all. A user's function reads outputs alone."""
        whole = self.kind in KINDS and KINDS[self.kind].all_inputs
        return None if whole else frozenset({self.options.ids, self.options.mask})


def _latencies(
    paths: Sequence[Path], samples: Sequence[Sample], specs: list[InputSpec], options: EvalOptions
) -> list[float] | list[None]:
    """Measure the latency of each model, ms; None where the user does not want it."""
    if not options.latency:
        return [None] * len(paths)
    feeds = [check_feeds(sample, specs) for sample in samples[:LATENCY_SAMPLES]]
    with activity("measuring latency"):
        return medians_ms(paths, feeds, options.threads)


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
) -> tuple[Observation, list[Opened], tuple[Tap, ...]]:
    """Expose the compared values as outputs of each model; return them, the models and the float taps.

    A model with other nodes than the float model is compared at its outputs alone.
    """
    source = normalize(load(path))
    few = [check_feeds(sample, specs) for sample in evenly(samples, SEEN)]
    observation = observe(source, few, feedback)
    taps = observation.taps
    if not observation.plain and not all(observation.fits(model) for model in models[1:]):
        observation = observe(source, few, feedback, at_outputs=True)
    opened = models if observation.plain else [source, *models[1:]]
    return observation, [Opened.of(each, observation) for each in opened], taps


def _check_interfaces(
    paths: Sequence[Path], sessions: Sequence[ort.InferenceSession], output: str | None
) -> None:
    """Check that all models have the same inputs and outputs, the evaluated one among them."""
    for path, session in zip(paths[1:], sessions[1:], strict=True):
        for kind, method in (("inputs", "get_inputs"), ("outputs", "get_outputs")):
            expected, found = ([node.name for node in getattr(s, method)()] for s in (sessions[0], session))
            if expected != found:
                raise ModelError(
                    f"{path}: its {kind} are [{', '.join(found)}], but {paths[0]} has "
                    f"[{', '.join(expected)}]: give a model with the same inputs and outputs"
                )
    names = [node.name for node in sessions[0].get_outputs()]
    if output is not None and output not in names:
        raise DataError(f"--output {output}: the model has no such output: choose one of {', '.join(names)}")


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
