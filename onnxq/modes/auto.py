"""`--mode auto`: try every mode on the user's model and machine, keep the best file and report all.

With `--prefer speed` the choice depends on times measured on this machine, so the same command may give
another file elsewhere.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from onnxq.errors import NothingToQuantize
from onnxq.options import Mode, Prefer, QuantizeOptions, WeightType
from onnxq.report.quantization import QuantizeReport
from onnxq.search.settings import SearchSettings
from onnxq.search.task import Task
from onnxq.search.trade_off import Point

TRIED: tuple[tuple[str, str, WeightType], ...] = (
    ("static", Mode.STATIC, WeightType.INT8),
    ("dynamic", Mode.DYNAMIC, WeightType.INT8),
    ("weights int8", Mode.WEIGHTS, WeightType.INT8),
    ("weights int4", Mode.WEIGHTS, WeightType.INT4),
    ("fp16", Mode.FP16, WeightType.INT8),
)
ALIKE = 1.03
"""Ratio up to which two latencies count as equal; then the more accurate file is kept."""

QuantizeInMode = Callable[[QuantizeOptions, Task | None], QuantizeReport]


def best_of_all(
    options: QuantizeOptions, folder: Path, task: Task | None, quantize: QuantizeInMode
) -> tuple[QuantizeReport, Path]:
    """Quantize a model in every mode; return the report of the best mode and its file in `folder`.

    Args:
        options: options of the user.
        folder: folder for the files.
        task: labelled samples for `limits.max_drop`.
        quantize: quantizes in one mode.

    Raises:
        OnnxqError: as for `onnxq.pipeline.quantize`, or no mode has anything to quantize.
    """
    reports = _try_all(options, folder, task, quantize)
    chosen = _best(reports, options.prefer)
    points = [_point(name, report, kept=name == chosen) for name, report in reports.items()]
    report = replace(reports[chosen], output=str(options.destination), frontier=points)
    return report.gated(options.limits), Path(reports[chosen].output)


def _try_all(
    options: QuantizeOptions, folder: Path, task: Task | None, quantize: QuantizeInMode
) -> dict[str, QuantizeReport]:
    reports: dict[str, QuantizeReport] = {}
    refusals: list[NothingToQuantize] = []
    for name, mode, kind in TRIED:
        output = folder / name.replace(" ", "-") / options.destination.name
        output.parent.mkdir()
        measure = options.measure and mode == Mode.STATIC
        tried = replace(
            options,
            mode=mode,
            weight_type=kind,
            output=output,
            measure=measure,
            keep_int8=True,
            keep_failed=True,
        )
        try:
            reports[name] = quantize(tried, task)
        except NothingToQuantize as refusal:
            refusals.append(refusal)
    if not reports:
        raise refusals[0]
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
    """Return the preferred mode: the fastest or smallest one whose outputs meet the default target.

    Where none meets it, or accuracy is preferred, the mode closest to float is kept.
    """
    points = [_point(name, report, kept=False) for name, report in reports.items()]
    good = [
        point for point in points if point.sqnr_db is not None and point.sqnr_db >= SearchSettings().target_db
    ]
    if prefer is Prefer.ACCURACY or not good:
        return max(points, key=lambda point: point.sqnr_db if point.sqnr_db is not None else -1e9).name
    if prefer is Prefer.SIZE:
        return min(good, key=lambda point: point.size).name
    fastest = min(point.latency or 1e9 for point in good)
    return max(
        (point for point in good if (point.latency or 1e9) <= fastest * ALIKE),
        key=lambda point: point.sqnr_db or 0.0,
    ).name
