"""`onnxq drift`: tell whether a quantized file still fits the values that an application gives it.

Each quantized activation has a calibrated range. Values outside it are clipped; where their share grows, the
data are no longer those of the calibration, and the file should be calibrated again.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import onnx_ir as ir

from onnxq.data.preprocessing import read_forms
from onnxq.data.reading import read_json
from onnxq.data.samples import check_feeds, open_samples, spread
from onnxq.errors import DataError, ModelError
from onnxq.evaluation.evaluate import EvalOptions, evaluate
from onnxq.evaluation.gates import Gate, at_least, at_most
from onnxq.evaluation.notebook import html_table
from onnxq.graph.edit import constant, nodes_of
from onnxq.graph.files import digest, load
from onnxq.runtime.inner_values import Exposed, expose
from onnxq.runtime.progress import progress
from onnxq.runtime.sessions import InputSpec, model_inputs, open_session, run
from onnxq.types import Array

SCHEMA = 1
"""Version of the JSON; it changes when a key changes its meaning or is removed."""
SAMPLES = 100
QUANTIZERS = frozenset({"QuantizeLinear"})


NOTEBOOK_ROWS = 20
"""Activations that a notebook shows."""


@dataclass(frozen=True)
class DriftOptions:
    """Options of `onnxq drift`.

    reference    samples of the calibration, or the JSON report of an earlier drift; None for none
    float_model  float model, for the SQNR; None without
    samples      most samples of each kind, evenly spaced
    preprocess   preset or TOML file for preprocessing
    max_clipped  gate: most of a layer's values that are clipped, beyond those of the reference, 0..1
    max_shift    gate: most that a layer's mean differs from the reference's, in its standard deviations
    min_sqnr     gate: least SQNR of the outputs against the float model, dB
    """

    reference: Path | None = None
    float_model: Path | None = None
    samples: int = SAMPLES
    preprocess: str | None = None
    max_clipped: float | None = None
    max_shift: float | None = None
    min_sqnr: float | None = None


class DriftKeywords(TypedDict, total=False):
    """Keyword arguments of `onnxq.drift`: the fields of `DriftOptions`, with objects in memory too."""

    reference: Any
    float_model: Any
    samples: int
    preprocess: str | None
    max_clipped: float | None
    max_shift: float | None
    min_sqnr: float | None


@dataclass(frozen=True)
class DriftRow:
    """A quantized activation; a value without a reference is None.

    tensor     name of the activation
    op_type    operator that makes it; empty for an input of the model
    low, high  calibrated range
    seen_low, seen_high  least and largest value in the data
    clipped    share of its values outside the range, 0..1
    mean, std  of its values
    reference  share in the reference
    shift      difference of the mean from the reference's, in standard deviations of the reference
    """

    tensor: str
    op_type: str
    low: float
    high: float
    seen_low: float
    seen_high: float
    clipped: float
    mean: float
    std: float
    reference: float | None = None
    shift: float | None = None

    @property
    def more(self) -> float:
        """Share of values that are clipped beyond those of the reference."""
        return max(0.0, self.clipped - (self.reference or 0.0))


@dataclass(frozen=True)
class DriftReport:
    """Report of `onnxq drift`.

    sha256     digest of the model
    layers     quantized activations, most drifted first
    sqnr_db    SQNR of the worst output part against the float model, dB; None without that model
    reference_sqnr_db  the same on the reference
    """

    model: str
    sha256: str
    samples: int
    layers: list[DriftRow]
    sqnr_db: float | None
    reference_sqnr_db: float | None
    gates: list[Gate] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    schema: int = SCHEMA

    def __repr__(self) -> str:
        most = max((row.more for row in self.layers), default=0.0)
        return f"<DriftReport {self.model!r}: {self.samples} samples, at most {most:.2%} newly clipped>"

    def _repr_html_(self) -> str:
        """Return the most drifted activations for a notebook."""
        rows = [["layer", "calibrated", "seen", "clipped", "reference", "shift"]]
        for row in self.layers[:NOTEBOOK_ROWS]:
            ranges = [f"{row.low:.4g}..{row.high:.4g}", f"{row.seen_low:.4g}..{row.seen_high:.4g}"]
            reference = "" if row.reference is None else f"{row.reference:.3%}"
            shift = "" if row.shift is None else f"{row.shift:.2f}"
            rows.append([row.tensor, *ranges, f"{row.clipped:.3%}", reference, shift])
        return html_table(rows, header=True)


@dataclass(frozen=True)
class _Range:
    """The calibrated range of an activation: the values that are not clipped.

    folded  whether it begins at zero in place of a Relu: then values below are no drift
    """

    tensor: str
    op_type: str
    low: float
    high: float
    folded: bool

    def outside(self, values: Array) -> int:
        above = np.count_nonzero(values > self.high)
        return int(above if self.folded else above + np.count_nonzero(values < self.low))


@dataclass
class _Seen:
    """Sums over samples of one activation."""

    outside: int = 0
    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = np.inf
    high: float = -np.inf

    def add(self, limits: _Range, values: Array) -> None:
        if values.size:
            self.outside += limits.outside(values)
            self.count += values.size
            self.total += float(values.sum(dtype=np.float64))
            self.squares += float(np.square(values, dtype=np.float64).sum())
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def row(self, limits: _Range, reference: "_Values | None") -> DriftRow:
        """Make a row of the report."""
        mean = self.total / self.count
        std = math.sqrt(max(0.0, self.squares / self.count - mean**2))
        shift = None
        if reference is not None and reference.std > 0:
            shift = abs(mean - reference.mean) / reference.std
        return DriftRow(
            limits.tensor,
            limits.op_type,
            limits.low,
            limits.high,
            self.low,
            self.high,
            self.outside / self.count,
            mean,
            std,
            None if reference is None else reference.clipped,
            shift,
        )


@dataclass(frozen=True)
class _Values:
    """An activation in the reference: share of clipped values, mean and standard deviation."""

    clipped: float
    mean: float
    std: float


@dataclass(frozen=True)
class _Reference:
    """What the reference shows: its activations, by name, and the SQNR, dB."""

    values: Mapping[str, _Values] = field(default_factory=dict)
    sqnr_db: float | None = None


def drift(model: Path, data: Path, options: DriftOptions | None = None) -> DriftReport:
    """Compare the values of a quantized file's activations with their calibrated ranges.

    Args:
        model: quantized file in QDQ format.
        data: samples of the application: a recording, another folder or file, or module:function.
        options: see `DriftOptions`.

    Raises:
        OnnxqError: the model has no calibrated ranges, or a model or the data cannot be used.
    """
    options = options or DriftOptions()
    quantized = load(model)
    ranges = _ranges(quantized)
    if not ranges:
        raise ModelError(
            f"{model}: has no calibrated ranges in QDQ format: give a file of onnxq quantize --mode static "
            "--format qdq"
        )
    measuring = _Measuring(model, quantized, ranges, options)
    # the data, and what they are compared with
    reference = _reference(measuring, options)
    count, rows = measuring.run(data, reference.values)
    found = measuring.sqnr_db(options.float_model, data) if options.float_model is not None else None
    # the report
    if not rows:
        raise DataError(f"{data}: no sample gives a quantized activation a value: check the data")
    rows.sort(key=lambda row: (-row.more, -row.clipped))
    warnings = []
    if not reference.values:
        warnings.append(
            "without a reference, values that the calibration clipped on purpose count as drift: "
            "give its samples with --reference"
        )
    gates = _gates(str(model), rows, found, options)
    return DriftReport(str(model), digest(model), count, rows, found, reference.sqnr_db, gates, warnings)


def _gates(model: str, rows: Sequence[DriftRow], sqnr_db: float | None, options: DriftOptions) -> list[Gate]:
    shifts = [(row.shift, row.tensor) for row in rows if row.shift is not None]
    shift, shifted = max(shifts, default=(None, ""))
    clipped, shifted = (name.replace("{", "{{").replace("}", "}}") for name in (rows[0].tensor, shifted))
    return [
        *at_most(
            "--max-clipped",
            model,
            options.max_clipped,
            rows[0].more,
            f"{clipped}: {{:.4f}} of its values are clipped beyond the reference",
        ),
        *at_most(
            "--max-shift",
            model,
            options.max_shift,
            shift,
            f"{shifted}: the mean is {{:.2f}} standard deviations from the reference's",
        ),
        *at_least("--min-sqnr", model, options.min_sqnr, sqnr_db, "SQNR is {:.2f} dB"),
    ]


class _Measuring:
    """A quantized file that returns its activations, as written: no fusion hides a value."""

    def __init__(
        self, path: Path, quantized: ir.Model, ranges: Sequence[_Range], options: DriftOptions
    ) -> None:
        self.path, self.ranges, self.options = path, ranges, options
        self.specs: list[InputSpec] = model_inputs(quantized)
        self.exposed: Exposed = expose(quantized, [each.tensor for each in ranges])
        self.session = open_session(self.exposed.model, optimize=False)

    def run(self, data: Path, reference: Mapping[str, _Values]) -> tuple[int, list[DriftRow]]:
        """Run samples; return their number and a row for each activation that gets a value."""
        forms = read_forms(self.options.preprocess)
        found = open_samples(data, self.specs, forms, self.options.samples, self.path)
        samples = spread(found, self.options.samples)
        seen = {each.tensor: _Seen() for each in self.ranges}
        outputs = [output for output, _ in self.exposed.outputs.values()]
        for sample in progress(samples, desc="drift", unit="sample"):
            fetched = run(self.session, check_feeds(sample, self.specs), sample.name, outputs)
            values = self.exposed.values(fetched)
            for each in self.ranges:
                seen[each.tensor].add(each, values[each.tensor])
        return len(samples), [
            seen[each.tensor].row(each, reference.get(each.tensor))
            for each in self.ranges
            if seen[each.tensor].count
        ]

    def sqnr_db(self, model: Path, data: Path) -> float | None:
        """Return the SQNR of the worst output part against the float model, dB."""
        options = EvalOptions(samples=self.options.samples, latency=False, preprocess=self.options.preprocess)
        return evaluate(model, [self.path], data, options).scores[1].sqnr_db


def _ranges(model: ir.Model) -> list[_Range]:
    """Return the calibrated ranges of a model's activations, in the order of the graph."""
    found: dict[str, _Range] = {}
    for node in nodes_of(model):
        value = node.inputs[0] if node.op_type in QUANTIZERS else None
        if value is None or constant(value) is not None or not value.name:
            continue
        scale = constant(node.inputs[1])
        zero = constant(node.inputs[2]) if len(node.inputs) > 2 else np.array(0, np.uint8)
        if scale is None or zero is None or scale.size != 1 or zero.size != 1 or zero.dtype.kind not in "iu":
            continue
        kind, step, middle = np.iinfo(zero.dtype), float(scale.reshape(())), int(zero.reshape(()))
        producer = value.producer()
        found[value.name] = _Range(
            value.name,
            producer.op_type if producer is not None else "",
            (kind.min - middle - 0.5) * step,
            (kind.max - middle + 0.5) * step,
            middle == kind.min,
        )
    return list(found.values())


def _reference(measuring: _Measuring, options: DriftOptions) -> _Reference:
    """Measure the reference samples, or read an earlier report."""
    path = options.reference
    if path is None:
        return _Reference()
    if path.suffix == ".json" and path.is_file():
        return _read_reference(path, digest(measuring.path))
    _, rows = measuring.run(path, {})
    found = measuring.sqnr_db(options.float_model, path) if options.float_model is not None else None
    return _Reference({row.tensor: _Values(row.clipped, row.mean, row.std) for row in rows}, found)


def _read_reference(path: Path, model: str) -> _Reference:
    """Read a report of `onnxq drift --json` on the same model."""
    try:
        content = read_json(path)
        layers: Iterable[Any] = content["layers"]
        values = {
            str(row["tensor"]): _Values(*(float(row[key]) for key in ("clipped", "mean", "std")))
            for row in layers
        }
        known, sqnr_db = content["sha256"], content["sqnr_db"]
        found = _Reference(values, None if sqnr_db is None else float(sqnr_db))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"--reference {path}: no report of onnxq drift --json: give one, or the calibration samples"
        ) from error
    if known != model:
        raise DataError(
            f"--reference {path}: is a report on another model: measure this one's reference again"
        )
    return found
