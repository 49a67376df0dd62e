"""`--mode auto`: every mode is tried on the user's model and machine; one is kept, all are shown.

What is kept depends on this machine's clock where speed is preferred, so the same command may give another file elsewhere.
"""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from onnxq.errors import DataError, ModelError
from onnxq.graph.files import check_output, external_files
from onnxq.options import Mode, Prefer, QuantizeOptions, WeightType
from onnxq.pipeline import placed_by_gates
from onnxq.pipeline import quantize as quantize_in_mode
from onnxq.report.quantization import QuantizeReport
from onnxq.search.accuracy_target import Task
from onnxq.search.mixed_precision import TARGET_DB
from onnxq.search.trade_off import Point

TRIED: tuple[tuple[str, Mode, WeightType], ...] = (
    ("static", Mode.STATIC, WeightType.INT8),
    ("dynamic", Mode.DYNAMIC, WeightType.INT8),
    ("weights int8", Mode.WEIGHTS, WeightType.INT8),
    ("weights int4", Mode.WEIGHTS, WeightType.INT4),
    ("fp16", Mode.FP16, WeightType.INT8),
)
ALIKE = 1.03
"""Latencies that differ by less are one: the more accurate file is kept then."""
NOTHING = "nothing to quantize"


def quantize(options: QuantizeOptions, task: Task | None = None) -> QuantizeReport:
    """Quantize a model in the mode that is asked for, or in the best one.

    Args:
        options: what to do.
        task: the samples and the metric that `limits.max_drop` holds on.

    Raises:
        OnnxqError: as `onnxq.pipeline.quantize`; or no mode has anything to quantize.
    """
    if options.mode is not Mode.AUTO:
        return quantize_in_mode(options, task)
    if options.calib is None:
        raise DataError("--mode auto compares on samples: give a folder with --calib")
    check_output(options.destination, options.model, force=options.force)
    try:
        folder = tempfile.TemporaryDirectory(prefix=".onnxq-", dir=options.destination.parent)
    except OSError as error:
        raise DataError(f"{options.destination}: cannot be written: {error.strerror}") from error
    with folder:
        reports = _try_all(options, Path(folder.name), task)
        chosen = _best(reports, options.prefer)
        points = [_point(name, report, kept=name == chosen) for name, report in reports.items()]
        report = replace(reports[chosen], output=str(options.destination), frontier=points).gated(
            options.limits
        )
        source = Path(reports[chosen].output)
        placed = placed_by_gates(report, source, options)
        _move(source.with_name(Path(placed.output).name), Path(placed.output))
    return placed


def _try_all(options: QuantizeOptions, folder: Path, task: Task | None) -> dict[str, QuantizeReport]:
    reports, refusals = {}, []
    for name, mode, kind in TRIED:
        output = folder / name.replace(" ", "-") / options.destination.name
        output.parent.mkdir()
        try:
            measure = options.measure and mode is Mode.STATIC
            tried = replace(
                options, mode=mode, weight_type=kind, output=output, measure=measure, keep_failed=True
            )
            reports[name] = quantize_in_mode(tried, task)
        except ModelError as error:
            if NOTHING not in str(error):
                raise
            refusals.append(str(error))
    if not reports:
        raise ModelError(refusals[0])
    return reports


def _point(name: str, report: QuantizeReport, *, kept: bool) -> Point:
    sqnr = report.outputs.bound_db if report.outputs is not None else None
    ratio = report.latency.ratio if report.latency is not None else None
    return Point(
        name,
        sqnr,
        ratio,
        report.bytes_after / report.bytes_before,
        kept,
        report.drop.points if report.drop else None,
    )


def _best(reports: dict[str, QuantizeReport], prefer: Prefer) -> str:
    """The fastest, or smallest, of those whose outputs hold; the closest to float where none does, or where that is preferred."""
    points = [_point(name, report, kept=False) for name, report in reports.items()]
    good = [point for point in points if point.sqnr_db is not None and point.sqnr_db >= TARGET_DB]
    if prefer is Prefer.ACCURACY or not good:
        return max(points, key=lambda point: point.sqnr_db if point.sqnr_db is not None else -1e9).name
    if prefer is Prefer.SIZE:
        return min(good, key=lambda point: point.size).name
    fastest = min(point.latency or 1e9 for point in good)
    return max(
        (point for point in good if (point.latency or 1e9) <= fastest * ALIKE),
        key=lambda point: point.sqnr_db or 0.0,
    ).name


def _move(source: Path, target: Path) -> None:
    for file in external_files(source):
        shutil.move(file, target.parent / file.name)
    source.replace(target)
