"""`onnxq eval FOLDER OTHERS`: exported folders end to end, against the float folder."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnxq.data.labels import labelled
from onnxq.data.preprocessing import read_forms
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds, open_samples, spread
from onnxq.errors import DataError, ModelError
from onnxq.evaluation.evaluate import EvalOptions, evaluate
from onnxq.evaluation.gates import Gate, at_least, at_most, unchecked
from onnxq.evaluation.notebook import html_table
from onnxq.evaluation.report import EvalReport
from onnxq.evaluation.scores.score import ScoreOptions
from onnxq.evaluation.scores.text import distance
from onnxq.exports.folder import find_exports
from onnxq.exports.parts import Export
from onnxq.exports.program import Program, Source
from onnxq.exports.settings import text_of
from onnxq.graph.files import file_bytes
from onnxq.options import Limits
from onnxq.runtime.latency import clock_of
from onnxq.runtime.progress import progress

SCHEMA = 1
"""Version of the JSON; it changes when a key changes its meaning or is removed."""
METRICS = ("exact", "WER", "CER")
TOKENS = 32
"""Default of the most tokens that are generated from a sample."""


@dataclass(frozen=True)
class GenerationScore:
    """What a folder generates; a value without a measurement is None.

    tokens      share of steps, 0..1, in which it chooses the float folder's token after the same tokens
    same        share of samples, 0..1, from which it generates the same tokens as the float folder
    metrics     with labels "exact", "WER" and "CER", shares of equal texts and of word and character errors
    to_float    the last two against the texts of the float folder
    first_ms    median time to the first token, encoder included, ms
    token_ms    median time of a further token, ms; CPU time with one thread
    per_second  further tokens per second
    ratio       token_ms / that of the float folder; below 1 is faster
    bytes       size of the models that generate, with their external data
    """

    folder: str
    tokens: float | None
    same: float | None
    metrics: dict[str, float]
    to_float: dict[str, float]
    first_ms: float | None
    token_ms: float | None
    per_second: float | None
    ratio: float | None
    bytes: int


@dataclass(frozen=True)
class FolderEvalReport:
    """Report of folders, the float one first.

    samples, labelled  number of samples, and of those with a label
    steps       number of steps in which tokens were compared
    generation  scores of folders that generate text; empty for others
    models      reports of models that generate none, by their path in the folder
    """

    data: str
    samples: int
    labelled: int
    steps: int
    generation: list[GenerationScore]
    models: dict[str, EvalReport]
    gates: list[Gate]
    warnings: list[str] = field(default_factory=list)
    schema: int = SCHEMA

    def __repr__(self) -> str:
        names = [score.folder for score in self.generation] or list(self.models)
        return f"<FolderEvalReport {', '.join(names)}: {self.samples} samples>"

    def _repr_html_(self) -> str:
        """Return the scores for a notebook."""
        if not self.generation:
            return "".join(report._repr_html_() for report in self.models.values())
        rows = [["folder", *METRICS, "same tokens", "same texts", "tokens/s", "ratio", "bytes"]]
        for score in self.generation:
            values = [*(score.metrics.get(name) for name in METRICS), score.tokens, score.same]
            numbers = [*values, score.per_second, score.ratio, score.bytes]
            rows.append([score.folder, *("" if each is None else f"{each:.6g}" for each in numbers)])
        return html_table(rows, header=True)


def evaluate_folders(
    folders: Sequence[Path], data: Path, options: EvalOptions, tokens: int
) -> FolderEvalReport:
    """Compare folders with the first one: what they generate, or model by model where they generate nothing.

    Args:
        folders: the float folder first.
        data: texts, images or sounds, or whatever the models take.
        options: as for single models.
        tokens: most tokens that are generated from a sample.

    Raises:
        OnnxqError: a folder or the data cannot be used, or an option is of single models.
    """
    other = next((folder for folder in folders if not folder.is_dir()), None)
    if other is not None:
        raise ModelError(f"{other}: is no folder, but {folders[0]} is: give folders, or models")
    forms = read_forms(options.preprocess)
    exports = [[each for each in find_exports(folder, forms) if each.routes] for folder in folders]
    if not exports[0]:
        return _model_by_model(folders, data, options)
    for folder, found in zip(folders, exports, strict=True):
        if len(found) != 1:
            raise ModelError(
                f"{folder}: {len(found)} of its folders generate text: name one in which all models lie"
            )
    _check_options(options)
    return _Generating([found[0] for found in exports], data, options, tokens).report()


def _check_options(options: EvalOptions) -> None:
    """Refuse options that say nothing about generated text.

    Raises:
        DataError: one is set.
    """
    set_ones = {
        "--min-sqnr": options.limits.min_sqnr is not None,
        "--significant": options.limits.significant,
        "--baseline": options.baseline is not None,
        "--metric": options.metric is not None,
        "--state": bool(options.states),
        "--cluster": options.cluster is not None,
        "--output and the options of scores": options.score != ScoreOptions(),
    }
    name = next((name for name, is_set in set_ones.items() if is_set), None)
    if name is not None:
        raise DataError(f"{name}: of single models: leave it out for folders that generate text")


def _model_by_model(folders: Sequence[Path], data: Path, options: EvalOptions) -> FolderEvalReport:
    """Evaluate each model that the samples fit."""
    forms, reports, reasons = read_forms(options.preprocess), {}, []
    for part in (part for export in find_exports(folders[0], forms) for part in export.parts):
        name = part.path.relative_to(folders[0])
        try:
            first = open_samples(data, part.specs, forms, options.samples, part.path)[0]
            check_feeds(first, part.specs)
        except DataError as error:
            reasons.append(error)
            continue
        missing = next((folder for folder in folders if not (folder / name).is_file()), None)
        if missing is not None:
            raise ModelError(f"{missing}: holds no {name}, but {folders[0]} does: quantize the whole folder")
        paths = [folder / name for folder in folders[1:]]
        reports[str(name)] = evaluate(part.path, paths, data, options)
    if not reports:
        raise reasons[0]
    found = list(reports.values())
    return FolderEvalReport(
        str(data),
        max(each.samples for each in found),
        max(each.labelled for each in found),
        0,
        [],
        reports,
        [gate for each in found for gate in each.gates],
        [warning for each in found for warning in each.warnings],
    )


@dataclass
class _Row:
    """Sums over samples of one folder."""

    same: int = 0
    texts: list[str] = field(default_factory=list)
    agreeing: int = 0
    first: list[float] = field(default_factory=list)
    later: list[float] = field(default_factory=list)


class _Generating:
    """Generation of several folders from the same samples, in turns."""

    def __init__(self, exports: Sequence[Export], data: Path, options: EvalOptions, tokens: int) -> None:
        self.exports, self.data, self.options, self.tokens = exports, data, options, tokens
        forms = read_forms(options.preprocess)
        self.programs = [Program.of(each, each.routes[0], forms, options.threads) for each in exports]
        for program in self.programs[1:]:
            _check_same_inputs(self.programs[0], program)
        samples = labelled(
            self.programs[0].samples(data, options.samples),
            str(options.labels) if options.labels is not None else None,
        )
        self.samples = samples if options.samples is None else spread(samples, options.samples)
        self.decode = text_of(exports[0].folder)
        self.labels = [sample.label for sample in self.samples]
        if any(self.labels) and self.decode is None:
            raise DataError(
                f"{exports[0].folder}: holds no tokenizer.json: texts cannot be compared with labels"
            )
        self.rows = [_Row() for _ in exports]
        self.steps = 0

    def report(self) -> FolderEvalReport:
        """Generate from all samples."""
        chance = random.Random(0)
        for sample in progress(self.samples, desc="generating", unit="sample"):
            _, wanted = self._generate(0, sample)
            self.steps += len(wanted)
            for index in chance.sample(range(1, len(self.programs)), len(self.programs) - 1):
                source, found = self._generate(index, sample)
                self.rows[index].same += found == wanted
                after = found if found == wanted else self._forced(index, source, wanted)
                self.rows[index].agreeing += sum(a == b for a, b in zip(after, wanted, strict=True))
        scores = self._scores()
        return FolderEvalReport(
            str(self.data),
            len(self.samples),
            sum(bool(label) for label in self.labels),
            self.steps,
            scores,
            {},
            [gate for score in scores[1:] for gate in _gates(score, scores[0], self.options.limits)],
        )

    def _generate(self, index: int, sample: Sample) -> tuple[Source, list[int]]:
        """Generate from a sample, and keep the times; return what it started from, and the tokens."""
        clock, row = clock_of(self.options.threads), self.rows[index]
        start = clock()
        source = self.programs[index].source(sample)
        before = (clock() - start) * 1000
        found = self.programs[index].generator.generate(
            source.prompt, self.tokens, context=source.context, clock=clock
        )
        row.first.append(before + found.times_ms[0])
        row.later += found.times_ms[1:]
        if self.decode is not None:
            row.texts.append(self.decode(found.tokens))
        return source, found.tokens

    def _forced(self, index: int, source: Source, wanted: Sequence[int]) -> list[int]:
        """Return the choices after the tokens of the float folder."""
        generator = self.programs[index].generator
        return generator.generate(source.prompt, len(wanted), context=source.context, forced=wanted).tokens

    def _scores(self) -> list[GenerationScore]:
        scores: list[GenerationScore] = []
        for index, (export, row) in enumerate(zip(self.exports, self.rows, strict=True)):
            token = statistics.median(row.later) if row.later and self.options.latency else None
            base = scores[0].token_ms if scores else token
            parts = {part.path for part in (*export.routes[0], self.programs[index].entry)}
            pairs = [(text, label) for text, label in zip(row.texts, self.labels, strict=False) if label]
            against = list(zip(row.texts, self.rows[0].texts, strict=True)) if index else []
            scores.append(
                GenerationScore(
                    str(export.folder),
                    row.agreeing / max(1, self.steps) if index else None,
                    row.same / max(1, len(self.samples)) if index else None,
                    _errors(pairs),
                    {name: value for name, value in _errors(against).items() if name != METRICS[0]},
                    statistics.median(row.first) if self.options.latency else None,
                    token,
                    1000 / token if token else None,
                    token / base if token and base else None,
                    sum(file_bytes(path) for path in parts),
                )
            )
        return scores


def _check_same_inputs(first: Program, other: Program) -> None:
    """Refuse a folder that takes other samples than the first one.

    Raises:
        ModelError: its inputs are others.
    """
    here, there = ({spec.name for spec in each.entry.specs} for each in (first, other))
    if here != there:
        raise ModelError(
            f"{other.entry.path}: its inputs are [{', '.join(sorted(there))}], but {first.entry.path} has "
            f"[{', '.join(sorted(here))}]: give folders of one model"
        )


def _errors(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Return the shares of equal texts, word errors and character errors of (text, wanted text)."""
    if not pairs:
        return {}
    stripped = [(" ".join(text.split()), " ".join(wanted.split())) for text, wanted in pairs]
    words = sum(len(wanted.split()) for _, wanted in stripped)
    letters = sum(len(wanted) for _, wanted in stripped)
    return {
        "exact": sum(text == wanted for text, wanted in stripped) / len(stripped),
        "WER": sum(distance(text.split(), wanted.split()) for text, wanted in stripped) / max(1, words),
        "CER": sum(distance(text, wanted) for text, wanted in stripped) / max(1, letters),
    }


def _gates(score: GenerationScore, base: GenerationScore, limits: Limits) -> list[Gate]:
    """Check the limits on one folder; --max-drop counts percentage points of the word error rate."""
    if score.metrics:
        drop = (score.metrics["WER"] - base.metrics["WER"]) * 100
        gates = at_most("--max-drop", score.folder, limits.max_drop, drop, "WER is {:.2f} worse than float")
    else:
        gates = unchecked("--max-drop", score.folder, limits.max_drop, "no sample has a label: give --labels")
    return [
        *gates,
        *at_least(
            "--min-agreement",
            score.folder,
            limits.min_agreement,
            score.tokens,
            "agreement with float is {:.4f}",
        ),
        *at_least(
            "--min-speedup",
            score.folder,
            limits.min_speedup,
            1 / score.ratio if score.ratio else None,
            "speed-up of a token is {:.2f}x",
        ),
        *at_most(
            "--max-size", score.folder, limits.max_size, score.bytes / base.bytes, "size is {:.3f} of float"
        ),
    ]
