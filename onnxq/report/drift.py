"""The report of `onnxq drift` as a table for a terminal."""

from onnxq.evaluation.drift import DriftReport, DriftRow
from onnxq.report.escaping import printable_report
from onnxq.report.tables import table

ROWS = 10
"""Layers that are shown without -v."""


def drift_text(report: DriftReport, *, verbose: bool = False) -> str:
    """Format the report: the layers that drifted most, then the SQNR."""
    report = printable_report(report)
    shown = report.layers if verbose else report.layers[:ROWS]
    header = ["layer", "made by", "calibrated", "seen", "clipped", "reference", "shift"]
    lines = [table([header, *map(_cells, shown)], left=2)]
    if len(shown) < len(report.layers):
        hidden = len(report.layers) - len(shown)
        lines.append(f"{hidden} more {'layer' if hidden == 1 else 'layers'} drifted less; -v lists them")
    if report.sqnr_db is not None:
        before = f", {report.reference_sqnr_db:.1f} dB on the reference" * (
            report.reference_sqnr_db is not None
        )
        lines.append(f"SQNR against float {report.sqnr_db:.1f} dB{before}")
    lines.append(f"{report.samples} samples, {len(report.layers)} quantized activations")
    return "\n".join(lines)


def _cells(row: DriftRow) -> list[str]:
    return [
        row.tensor,
        row.op_type or "input",
        f"{row.low:.4g}..{row.high:.4g}",
        f"{row.seen_low:.4g}..{row.seen_high:.4g}",
        f"{row.clipped:.3%}",
        "-" if row.reference is None else f"{row.reference:.3%}",
        "-" if row.shift is None else f"{row.shift:.2f}",
    ]
