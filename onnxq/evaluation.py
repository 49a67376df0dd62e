"""`onnxq eval`: a float model against one or more others, over a folder of samples, one at a time."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tqdm import tqdm

from onnxq.data.images import Preprocess
from onnxq.data.samples import check_feeds, open_samples, spread
from onnxq.data.source import Sample
from onnxq.errors import DataError, ModelError
from onnxq.latency import medians_ms
from onnxq.metrics import Classification, OutputError
from onnxq.model.files import file_bytes, load
from onnxq.model.runtime import input_specs, open_session, run
from onnxq.schemes import Array, Feeds


@dataclass(frozen=True)
class EvalOptions:
    """What to compare, and how.

    labels      CSV with the header file,label; None without labels
    output      the output to classify with; None for the first
    class_axis  its axis of classes
    samples     at most so many, evenly spaced; None for all
    threads     the runtime's threads while latency is measured
    latency     whether it is measured
    """

    labels: Path | None = None
    output: str | None = None
    class_axis: int = -1
    samples: int | None = None
    threads: int = 1
    latency: bool = True
    preprocess: Preprocess | None = None


@dataclass(frozen=True)
class ModelScore:
    """One model's row; what could not be measured is None.

    top1, top5     share of samples with a label, 0..1
    agreement      share of decisions that are the float model's
    sqnr_db        of all float outputs against the float model's, dB
    cosine         mean over samples
    max_error      largest absolute difference
    bytes          of the file and its external data
    latency_ms     median of one inference
    latency_ratio  latency / the float model's, measured in turns; below 1 is faster
    """

    model: str
    top1: float | None
    top5: float | None
    agreement: float | None
    sqnr_db: float | None
    cosine: float | None
    max_error: float | None
    bytes: int
    latency_ms: float | None
    latency_ratio: float | None


@dataclass(frozen=True)
class EvalReport:
    """The float model's score first, then each other's."""

    samples: int
    labelled: int
    output: str
    scores: list[ModelScore]

    def failed_gates(self, max_drop: float | None = None, min_sqnr: float | None = None) -> list[str]:
        """One line for each gate that does not hold; `max_drop` in points of top-1, `min_sqnr` in dB."""
        failed = []
        base = self.scores[0]
        for score in self.scores[1:]:
            if max_drop is not None:
                drop = None if base.top1 is None or score.top1 is None else (base.top1 - score.top1) * 100
                if drop is None:
                    failed.append(f"{score.model}: --max-drop needs --labels")
                elif drop > max_drop + 1e-9:
                    failed.append(f"{score.model}: top-1 falls by {drop:.2f} points, --max-drop {max_drop:g}")
            if min_sqnr is not None and (score.sqnr_db is None or score.sqnr_db < min_sqnr):
                found = "unknown" if score.sqnr_db is None else f"{score.sqnr_db:.2f} dB"
                failed.append(f"{score.model}: SQNR is {found}, --min-sqnr {min_sqnr:g}")
        return failed


def evaluate(model: Path, others: Sequence[Path], data: Path, options: EvalOptions | None = None) -> EvalReport:
    """Compare models over a data folder; memory does not grow with the number of samples.

    Raises:
        OnnxqError: a model, the data or the labels cannot be used.
    """
    options = options or EvalOptions()
    paths = [model, *others]
    for path in paths:
        load(path)
    sessions = [open_session(path) for path in paths]
    specs = input_specs(sessions[0])
    names = [node.name for node in sessions[0].get_outputs()]
    _check_same_interface(paths, sessions)
    labels = read_labels(options.labels) if options.labels is not None else None
    samples = _select(open_samples(data, specs, options.preprocess), labels, options)
    if options.output is not None and options.output not in names:
        raise DataError(f"--output {options.output}: the model's outputs are {', '.join(names)}")
    chosen = names.index(options.output) if options.output is not None else 0
    errors = [OutputError(names) for _ in paths]
    classes = [Classification(options.class_axis) for _ in paths]
    kept: list[Feeds] = []
    for sample in tqdm(samples, desc="eval", unit="sample", disable=None):
        feeds = check_feeds(sample, specs)
        kept = [*kept, feeds][:4]
        label = labels[sample.name] if labels is not None else None
        results = [run(session, feeds, sample.name) for session in sessions]
        for error, classification, result in zip(errors, classes, results, strict=True):
            _check_shapes(sample, names, results[0], result)
            error.add(results[0], result)
            if _is_classes(results[0][chosen], options.class_axis):
                classification.add(results[0][chosen], result[chosen], label)
            elif label is not None:
                raise DataError(f"output '{names[chosen]}' has no axis of classes: name another with --output")
    times = medians_ms(paths, kept, options.threads) if options.latency else [None] * len(paths)
    rows = [_score(*row, base=times[0]) for row in zip(paths, errors, classes, times, strict=True)]
    return EvalReport(len(samples), classes[0].labelled, names[chosen], rows)


def _is_classes(output: Array, axis: int) -> bool:
    """Whether an output has scores along an axis."""
    if not isinstance(output, np.ndarray) or output.dtype.kind != "f" or output.ndim == 0:
        return False
    if not -output.ndim <= axis < output.ndim:
        raise DataError(f"--class-axis {axis}: the output has {output.ndim} axes: name another axis, or another output with --output")
    return bool(output.shape[axis] > 1)


def _check_same_interface(paths: Sequence[Path], sessions: Sequence[ort.InferenceSession]) -> None:
    for path, session in zip(paths[1:], sessions[1:], strict=True):
        for what, of in (("inputs", "get_inputs"), ("outputs", "get_outputs")):
            expected, found = ([node.name for node in getattr(s, of)()] for s in (sessions[0], session))
            if expected != found:
                raise ModelError(f"{path}: its {what} are [{', '.join(found)}], those of {paths[0]} are [{', '.join(expected)}]")


def _check_shapes(sample: Sample, names: Sequence[str], expected: Sequence[Array], found: Sequence[Array]) -> None:
    for name, want, have in zip(names, expected, found, strict=True):
        if np.shape(want) != np.shape(have):
            raise ModelError(f"sample {sample.name}: output '{name}' has shapes {np.shape(want)} and {np.shape(have)}")


def read_labels(path: Path) -> dict[str, int | None]:
    """Class by file name, from a CSV with the header file,label; an empty label does not count.

    Raises:
        DataError: no such file, another header, or a label that is no class number.
    """
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if not {"file", "label"} <= set(reader.fieldnames or ()):
                raise DataError(f"{path}: expected the header file,label, found {','.join(reader.fieldnames or ()) or 'nothing'}")
            rows = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the labels cannot be read: {error}") from error
    labels: dict[str, int | None] = {}
    for number, row in enumerate(rows, start=2):
        try:
            labels[row["file"]] = int(row["label"]) if row["label"] else None
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}, line {number}: label {row['label']!r} is not a class number") from error
    return labels


def _select(samples: list[Sample], labels: dict[str, int | None] | None, options: EvalOptions) -> list[Sample]:
    if labels is not None:
        samples = [sample for sample in samples if sample.name in labels]
        if not samples:
            raise DataError(f"{options.labels}: names no file of the data folder")
        missing = set(labels) - {sample.name for sample in samples}
        if missing:
            raise DataError(f"{options.labels}: {min(missing)} is not in the data folder")
    return samples if options.samples is None else spread(samples, options.samples)


def _score(path: Path, error: OutputError, classes: Classification, latency: float | None, *, base: float | None) -> ModelScore:
    labelled = classes.labelled
    return ModelScore(
        model=str(path),
        top1=classes.top1 / labelled if labelled else None,
        top5=classes.top5 / labelled if labelled else None,
        agreement=classes.agreeing / classes.decisions if classes.decisions else None,
        sqnr_db=error.sqnr_db(),
        cosine=error.cosine(),
        max_error=error.largest if error.signal else None,
        bytes=file_bytes(path),
        latency_ms=latency,
        latency_ratio=latency / base if latency is not None and base else None,
    )
