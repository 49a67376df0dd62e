"""`onnxq preview`: what the model gets and answers for a few samples."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onnxq.data.checks import check_samples
from onnxq.data.preprocessing import Forms, read_forms
from onnxq.data.samples import check_feeds, open_samples, spread
from onnxq.evaluation.preprocessing_guess import decides, probabilities
from onnxq.graph.files import load
from onnxq.runtime.sessions import input_specs, open_session, run
from onnxq.types import Array, Feeds

TOP = 3
"""Classes that are shown for a sample."""


@dataclass(frozen=True)
class ValueRow:
    """A value of a sample: its type, shape and range; no range for texts or without elements."""

    name: str
    type: str
    shape: tuple[int, ...]
    low: float | None
    high: float | None
    mean: float | None


@dataclass(frozen=True)
class PreviewRow:
    """A sample: what the model gets, and what it answers.

    top  the most probable classes with their probabilities; empty if the first output is no decision
    """

    sample: str
    inputs: list[ValueRow]
    outputs: list[ValueRow]
    top: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True)
class PreviewReport:
    """Report of `onnxq preview`."""

    model: str
    data: str
    found: int
    rows: list[PreviewRow]
    warnings: list[str] = field(default_factory=list)


def preview(
    model: Path, data: Path, preprocess: str | None, samples: int
) -> tuple[PreviewReport, list[Feeds], Forms]:
    """Run the float model on a few evenly spaced samples.

    Returns:
        The report, the samples' feeds, and the preprocessing.

    Raises:
        OnnxqError: the model or the data cannot be used.
    """
    load(model)
    session = open_session(model)
    specs, forms = input_specs(session), read_forms(preprocess)
    found = open_samples(data, specs, forms, samples, model)
    chosen = spread(found, samples)
    names = [node.name for node in session.get_outputs()]
    feeds, rows = [check_feeds(sample, specs) for sample in chosen], []
    for sample, each in zip(chosen, feeds, strict=True):
        outputs = run(session, each, sample.name)
        answers = [_row(name, value) for name, value in zip(names, outputs, strict=True)]
        top = _top(outputs[0][0]) if decides(outputs) else []
        rows.append(PreviewRow(sample.name, [_row(*item) for item in each.items()], answers, top))
    warnings = check_samples(found, found, specs, forms)
    return PreviewReport(str(model), str(data), len(found), rows, warnings), feeds, forms


def _row(name: str, value: Array) -> ValueRow:
    if not isinstance(value, np.ndarray):
        return ValueRow(name, type(value).__name__, (), None, None, None)
    if value.dtype.kind not in "fiub" or value.size == 0:
        return ValueRow(name, str(value.dtype), value.shape, None, None, None)
    low, high, mean = float(value.min()), float(value.max()), float(value.mean(dtype=np.float64))
    return ValueRow(name, str(value.dtype), value.shape, low, high, mean)


def _top(row: Array) -> list[tuple[int, float]]:
    shares = probabilities(row)
    return [(int(index), float(shares[index])) for index in np.argsort(shares)[::-1][:TOP]]
