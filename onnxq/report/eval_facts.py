"""Facts of the page of `onnxq eval`: headline numbers, confidence intervals, accuracy over latency."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxq.evaluation.report import EvalReport, ModelScore
from onnxq.evaluation.scores.kinds import drop_unit, in_percent
from onnxq.evaluation.scores.uncertainty import Value
from onnxq.report.charts import Point, scatter
from onnxq.report.tables import size
from onnxq.report.text import eval_columns

TIMES = "\N{MULTIPLICATION SIGN}"
LEAST_RATIO = 0.2
"""Least width of an axis of latency ratios: differences of a few percent are noise."""


@dataclass(frozen=True)
class Tile:
    """A headline number, its meaning with a term of the glossary or "", and a smaller second line."""

    number: str
    meaning: str
    term: str
    detail: str


def eval_facts(report: EvalReport) -> dict[str, Any]:
    """Return what the template shows besides the report itself."""
    points = _points(report)
    return {
        "columns": eval_columns(report),
        "tiles": _tiles(report) if len(report.scores) == 2 else [],
        "intervals": [
            _interval(score.model, name, value)
            for score in report.scores
            for name, value in score.metrics.items()
        ],
        "points": points,
        "chart": _chart(report, points),
    }


def _tiles(report: EvalReport) -> list[Tile]:
    """Return the numbers of the only quantized file."""
    before, score = report.scores
    found = []
    value = score.metrics.get(report.metric or "")
    if value is not None and value.drop is not None:
        base = before.metrics.get(report.metric or "")
        was = f"float {_with_unit(report, base.value * _scale(report.metric))}" if base is not None else ""
        verdict = "" if value.significant or abs(value.drop) < 5e-5 else "not significant"
        number = _with_unit(report, value.value * _scale(report.metric))
        found.append(Tile(number, report.metric or "", "", "; ".join(filter(None, (was, verdict)))))
    if score.latency_ratio and score.latency_ms is not None and before.latency_ms is not None:
        times = f"{score.latency_ms:.3g} ms, float {before.latency_ms:.3g} ms"
        found.append(Tile(f"{1 / score.latency_ratio:.2f}{TIMES}", "speed of float", "", times))
    if score.sqnr_db is not None:
        where = f"worst of {len(score.parts)} parts" if len(score.parts) > 1 else ""
        found.append(Tile(f"{score.sqnr_db:.1f} dB", "SQNR", "SQNR", where))
    if score.agreement is not None:
        same = "same decisions as float" if report.metric else "same largest value as float"
        found.append(Tile(f"{score.agreement:.2%}", same, "agreement", ""))
    ratio, change = score.bytes / max(1, before.bytes), f"{size(before.bytes)} → {size(score.bytes)}"
    found.append(Tile(f"{ratio:.2f}{TIMES}", "size of float", "", change))
    return found


def _interval(model: str, metric: str, value: Value) -> tuple[str, str, list[str], Value]:
    """Return a row of the table of intervals: value, ends and drop in the metric's unit."""
    percent = in_percent(metric)

    def shown(number: float) -> str:
        return f"{number:.2%}" if percent else f"{number:.4f}"

    unit = drop_unit(metric)
    drop = "" if value.drop is None else f"{value.drop:z.2f}{unit}" if unit else f"{value.drop:z.4f}"
    return model, metric, [shown(value.value), shown(value.low), shown(value.high), drop], value


def _points(report: EvalReport) -> list[Point]:
    """Return the models in the chart; the float model has no SQNR."""
    found = []
    for i, score in enumerate(report.scores):
        height = _height(report, score, is_float=i == 0)
        if score.latency_ratio is None or height is None:
            continue
        value = score.metrics.get(report.metric or "")
        scale = _scale(report.metric)
        ends = (value.low * scale, value.high * scale) if value is not None else None
        name = Path(score.model).name
        ratio = score.latency_ratio
        text = f"{_with_unit(report, height)} at {ratio:.2f}{TIMES} of float's latency"
        found.append(Point(name, ratio, height, kept=i > 0, ends=ends, text=text))
    return found


def _chart(report: EvalReport, points: list[Point]) -> str:
    """Draw accuracy over latency where there are several models to compare."""
    if len(points) < 2:
        return ""
    percent = report.metric is not None and in_percent(report.metric)
    unit = f"{report.metric}, %" if percent else report.metric or "SQNR, dB"
    across = f"latency / float, lower is better ({report.scores[0].latency_ms:.3g} ms: dashed) →"
    up = "(lower is better)" if _lower_is_better(report) else "↑"
    return scatter(
        points, across, f"{unit} {up}", 1.0, highest=100.0 if percent else math.inf, least=LEAST_RATIO
    )


def _lower_is_better(report: EvalReport) -> bool:
    """Tell whether a larger value of the first metric is a drop, as for a perplexity."""
    values = [score.metrics.get(report.metric or "") for score in report.scores]
    base = values[0]
    others = [value for value in values[1:] if value is not None and value.drop is not None]
    return base is not None and any((each.drop or 0.0) * (each.value - base.value) > 0 for each in others)


def _height(report: EvalReport, score: ModelScore, *, is_float: bool) -> float | None:
    """Return the first metric of a model in the unit of the chart, or its SQNR, dB."""
    if report.metric is not None:
        value = score.metrics.get(report.metric)
        return value.value * _scale(report.metric) if value is not None else None
    return None if is_float else score.sqnr_db


def _scale(metric: str | None) -> float:
    return 100.0 if metric is not None and in_percent(metric) else 1.0


def _with_unit(report: EvalReport, number: float) -> str:
    if report.metric is None:
        return f"{number:.1f} dB"
    return f"{number:.2f}%" if in_percent(report.metric) else f"{number:.4g}"
