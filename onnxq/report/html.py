"""Reports as one self-contained HTML file: no scripts, fonts or network."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxq.data.images import SUFFIXES
from onnxq.evaluation.debugging import DebugReport
from onnxq.evaluation.report import EvalReport, ModelScore
from onnxq.report.escaping import printable, printable_report
from onnxq.report.quantization import QuantizeReport
from onnxq.report.text import eval_columns, quantize_rows, size
from onnxq.version import __version__

THUMBNAIL = 160
"""Length of the long side of a sample's picture, pixels."""
HISTOGRAMS = 400
"""Most histograms on a page, those with the largest clipped share; bounds the size of the page."""


def page(report: QuantizeReport | EvalReport | DebugReport) -> str:
    """Render a report; names from models and data are escaped."""
    import jinja2

    shown_pictures = pictures(report) if isinstance(report, EvalReport) else {}  # by their true names
    report = printable_report(report)

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("onnxq.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"size": size, "bars": bars, "line": line}
    if isinstance(report, DebugReport):
        return environment.get_template("debug.html").render(report=report, version=__version__)
    if isinstance(report, EvalReport):
        facts: dict[str, Any] = {
            "columns": eval_columns(report),
            "points": points(report),
            "pictures": {printable(name): picture for name, picture in shown_pictures.items()},
        }
        return environment.get_template("eval.html").render(report=report, version=__version__, **facts)
    shown = {row.name for row in sorted(report.histograms, key=lambda row: -row.clipped)[:HISTOGRAMS]}
    facts = {
        "rows": quantize_rows(report, verbose=True),
        "histograms": [row for row in report.histograms if row.name in shown],
        "kinds": kernel_times(report),
        "reasons": any(row.reason for row in report.layers),
        "trials": [trial for trial in report.trials if trial.sqnr_db is not None],
        "most_ms": max([max(row.float_ms or 0, row.int8_ms or 0) for row in report.layers], default=0) or 1,
    }
    return environment.get_template("quantize.html").render(report=report, version=__version__, **facts)


def bars(counts: Sequence[int], width: int, height: int) -> str:
    """Draw bars as an SVG path; the logarithmic scale shows tails of a distribution."""
    import math

    most = math.log1p(max(counts, default=0)) or 1.0
    step = width / max(1, len(counts))
    parts = [
        f"M{i * step:.1f} {height}v{-math.log1p(count) / most * height:.1f}h{step:.1f}V{height}z"
        for i, count in enumerate(counts)
        if count
    ]
    return "".join(parts)


def line(values: Sequence[float | None], width: int, height: int, low: float, high: float) -> str:
    """Draw a line as an SVG path, from `low` (bottom) to `high` (top); missing values are bridged."""
    step = width / max(1, len(values) - 1)
    span = high - low or 1.0
    points = [
        f"{i * step:.1f} {height - (min(max(value, low), high) - low) / span * height:.1f}"
        for i, value in enumerate(values)
        if value is not None
    ]
    return "M" + "L".join(points) if points else ""


def kernel_times(report: QuantizeReport) -> list[tuple[str, int, float, float]]:
    """Sum up per operator: nodes, time in the float model and in the file (ms); longest first."""
    kinds: dict[str, list[float]] = {}
    for row in report.layers:
        entry = kinds.setdefault(row.op_type, [0, 0.0, 0.0])
        entry[0] += 1
        entry[1] += row.float_ms or 0
        entry[2] += row.int8_ms or 0
    return sorted(
        ((kind, int(n), before, after) for kind, (n, before, after) in kinds.items()), key=lambda row: -row[2]
    )


def points(report: EvalReport) -> list[dict[str, Any]]:
    """Place each model in the chart of accuracy over latency, 0..1 each, with its label."""
    shown = [(score, score.latency_ratio, _height(report, score)) for score in report.scores]
    known = [(score, x, y) for score, x, y in shown if x is not None and y is not None]
    if len(known) < 2:
        return []
    right = max(1.05, *(x * 1.1 for _, x, _ in known))
    heights = [y for _, _, y in known]
    low, high = min(heights), max(heights)
    pad = (high - low) * 0.2 or abs(high) * 0.01 or 1.0
    return [
        {
            "x": x / right,
            "y": (y - low + pad) / (high - low + 2 * pad),
            "name": Path(score.model).name,
            "label": f"{y:.4g} at {x:.2f}x",
        }
        for score, x, y in known
    ]


def _height(report: EvalReport, score: ModelScore) -> float | None:
    value = score.metrics.get(report.metric or "")
    return value.value if value is not None else score.sqnr_db


def pictures(report: EvalReport) -> dict[str, str]:
    """Embed the worst samples that are image files, as thumbnails by sample name."""
    try:
        from PIL import Image
    except ImportError:
        return {}
    found: dict[str, str] = {}
    names = {worst.sample for score in report.scores for worst in score.worst}
    for name in sorted(names):
        path = Path(report.data) / name
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        with Image.open(path) as image:
            small = image.convert("RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            stream = io.BytesIO()
            small.save(stream, "JPEG", quality=80)
        found[name] = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
    return found
