"""Reports as one self-contained HTML file: no fonts, no network, readable without scripts.

The only script is the package's own `report.js`; a content security policy names its digest and forbids all
others, so that no name from a model or from data can become code.
"""

import base64
import hashlib
import os
import time
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

from onnxq.comparison.caches import described
from onnxq.evaluation.debugging import DebugReport
from onnxq.evaluation.layer_errors import Layer
from onnxq.evaluation.report import EvalReport
from onnxq.report.charts import Line, Point, bars, layers_chart, scatter
from onnxq.report.escaping import printable, printable_report
from onnxq.report.eval_facts import LEAST_RATIO, TIMES, eval_facts
from onnxq.report.glossary import GLOSSARY
from onnxq.report.graph_view import graph
from onnxq.report.quantization import QuantizeReport
from onnxq.report.quantize_text import quantize_rows
from onnxq.report.sample_views import sample_views
from onnxq.report.tables import size
from onnxq.version import __version__

HISTOGRAMS, DRAWN = 1500, 24
"""Most histograms that the script can show, and most that are drawn without it: those that clip most."""


def page(report: QuantizeReport | EvalReport | DebugReport, date: str = "") -> str:
    """Render a report; names from models and data are escaped.

    Args:
        report: the report.
        date: text for the footer.
    """
    import jinja2

    views = _views(report) if isinstance(report, EvalReport) else {}  # by their true names
    report = printable_report(report)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("onnxq.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"size": size, "bars": bars, "described": described}
    script = _asset("report.js")
    facts: dict[str, Any] = {
        "report": report,
        "version": __version__,
        "glossary": GLOSSARY,
        "style": _asset("report.css"),
        "script": script,
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "date": date,
    }
    if isinstance(report, DebugReport):
        return environment.get_template("debug.html").render(facts | _debug_facts(report))
    if isinstance(report, EvalReport):
        shown = {printable(name): view for name, view in views.items()}
        return environment.get_template("eval.html").render(facts | eval_facts(report) | {"views": shown})
    return environment.get_template("quantize.html").render(facts | _quantize_facts(report))


def measurement_date(report: QuantizeReport | EvalReport | DebugReport) -> str:
    """Return today's date, or that of SOURCE_DATE_EPOCH, for a report with measured times; others have none.

    A report without times is the same, byte by byte, whenever it is made.
    """
    timed = isinstance(report, QuantizeReport) or (
        isinstance(report, EvalReport) and any(score.latency_ms is not None for score in report.scores)
    )
    if not timed:
        return ""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = int(given) if given.isdecimal() else time.time()
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


def _asset(name: str) -> str:
    return resources.files("onnxq.report").joinpath("templates", name).read_text(encoding="utf-8")


def _views(report: EvalReport) -> dict[str, str]:
    names = [worst.sample for score in report.scores for worst in score.worst]
    return sample_views(Path(report.data), names)


def _quantize_facts(report: QuantizeReport) -> dict[str, Any]:
    worst = sorted(report.histograms, key=lambda row: -row.clipped)
    kept = {row.name for row in worst[:HISTOGRAMS]}
    drawn = {row.name for row in worst[:DRAWN]}
    rows = [(i, row) for i, row in enumerate(report.layers) if _in_table(row)]
    measured = [row for _, row in rows if row.sqnr_db is not None]
    tried = [
        (i, point)
        for i, point in enumerate(report.frontier)
        if point.latency is not None and point.sqnr_db is not None
    ]
    return {
        "rows": quantize_rows(report, verbose=True),
        "graph": graph(report.layers, [row for row in report.histograms if row.name in kept]),
        "layers": rows,
        "unlisted": len(report.layers) - len(rows),
        "reasons": any(row.reason for _, row in rows),
        "weights": sorted(Counter(row.weight.bits for row in report.layers if row.weight).items()),
        "counted": any(row.macs for row in report.layers),
        "timed": any(row.int8_ms is not None for row in report.layers),
        "layer_chart": layers_chart(
            [row.name for row in measured], [Line("int8", [row.sqnr_db for row in measured])], "SQNR, dB"
        ),
        "histograms": [row for row in report.histograms if row.name in drawn],
        "kinds": kernel_times(report),
        "trials": [trial for trial in report.trials if trial.sqnr_db is not None],
        "most_ms": max([max(row.float_ms or 0, row.int8_ms or 0) for row in report.layers], default=0) or 1,
        "tried": [i for i, _ in tried],
        "frontier_chart": scatter(
            [
                Point(
                    point.name,
                    point.latency or 0.0,
                    point.sqnr_db or 0.0,
                    3 + 7 * min(point.size, 1.5),
                    point.kept,
                    text=f"{point.sqnr_db:.1f} dB at {point.latency:.2f}{TIMES} of float's latency",
                )
                for _, point in tried
            ],
            "latency / float (dashed: 1) →",
            "SQNR, dB ↑ (a larger circle is a larger file)",
            line=1.0,
            least=LEAST_RATIO,
        )
        if tried
        else "",
    }


def _in_table(row: Layer) -> bool:
    """Whether the table lists a layer: it has MACs or measured time, or is planned."""
    return bool(row.macs or row.planned or row.float_ms or row.int8_ms)


def _debug_facts(report: DebugReport) -> dict[str, Any]:
    lines = [
        Line("float", [row.own_db for row in report.layers]),
        Line("int8", [row.sqnr_db for row in report.layers]),
    ]
    return {"layer_chart": layers_chart([row.name for row in report.layers], lines, "SQNR, dB")}


def kernel_times(report: QuantizeReport) -> list[tuple[str, int, float, float]]:
    """Sum up per operator: nodes, time in the float model and in the file (ms); longest first."""
    kinds: dict[str, list[float]] = {}
    for row in report.layers:
        entry = kinds.setdefault(row.op_type, [0, 0.0, 0.0])
        entry[0] += 1
        entry[1] += row.float_ms or 0
        entry[2] += row.int8_ms or 0
    return sorted(
        ((kind, int(n), before, after) for kind, (n, before, after) in kinds.items() if before or after),
        key=lambda row: -row[2],
    )
