"""The reports of folders as text for a terminal."""

from collections.abc import Callable

from onnxq.exports.evaluation import METRICS, FolderEvalReport, GenerationScore
from onnxq.exports.folder import FolderReport
from onnxq.report.escaping import printable_report
from onnxq.report.tables import number, percent, size, table
from onnxq.report.text import eval_text


def folder_text(report: FolderReport, *, width: int | None = None) -> str:
    """Format the report of `onnxq quantize` on a folder."""
    report = printable_report(report)
    rows = [["model", "mode", "size", "SQNR dB", "latency", ""]]
    for row in report.models:
        found = row.report
        outputs, latency = (found.outputs, found.latency) if found is not None else (None, None)
        rows.append(
            [
                row.file,
                row.mode,
                f"{size(row.bytes_before)} -> {size(row.bytes_after)}",
                number(outputs.bound_db if outputs is not None else None, "{:.1f}"),
                number(latency.ratio if latency is not None else None, "{:.2f}x"),
                row.note,
            ]
        )
    written = f"wrote {report.output}: {len(report.models)} models, {report.copied} other files"
    return f"{table(rows, left=2, width=width)}\n{written}"


def folder_eval_text(report: FolderEvalReport, *, verbose: bool = False, width: int | None = None) -> str:
    """Format the report of `onnxq eval` on folders."""
    if not report.generation:
        texts = [eval_text(each, verbose=verbose, width=width) for each in report.models.values()]
        named = zip(report.models, texts, strict=True)
        return texts[0] if len(texts) == 1 else "\n\n".join(f"{name}\n{text}" for name, text in named)
    report = printable_report(report)
    columns: list[tuple[str, Callable[[GenerationScore], str]]] = [
        *((name, lambda s, name=name: percent(s.metrics.get(name))) for name in METRICS),
        ("same tokens", lambda s: percent(s.tokens)),
        ("same texts", lambda s: percent(s.same)),
        *((f"{name} to float", lambda s, name=name: percent(s.to_float.get(name))) for name in METRICS[1:]),
        ("size", lambda s: size(s.bytes)),
        ("first ms", lambda s: number(s.first_ms, "{:.1f}")),
        ("token ms", lambda s: number(s.token_ms, "{:.2f}")),
        ("tokens/s", lambda s: number(s.per_second, "{:.0f}")),
        ("ratio", lambda s: number(s.ratio, "{:.2f}")),
    ]
    kept = [(name, cell) for name, cell in columns if any(cell(each) != "-" for each in report.generation)]
    rows = [["folder", *(name for name, _ in kept)]]
    rows += [[each.folder, *(cell(each) for _, cell in kept)] for each in report.generation]
    labelled = f", {report.labelled} with a label" if report.labelled else ", no labels"
    return f"{table(rows, width=width)}\n\n{report.samples} samples{labelled}; {report.steps} tokens of float"
