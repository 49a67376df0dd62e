"""Reports as Markdown, for pull request comments and job summaries."""

import html
import re
from collections.abc import Sequence

from onnxq.evaluation.gates import Gate
from onnxq.evaluation.report import EvalReport
from onnxq.report.escaping import printable_report
from onnxq.report.quantization import QuantizeReport
from onnxq.report.quantize_text import quantize_rows
from onnxq.report.text import eval_columns, prediction

_MARKUP = re.compile(r"[\\`*\[\]!~$|]|(?<![^\W_])_|_(?![^\W_])")
_LINKED = re.compile(r"@|[#!](?=\d)|\b(?:https?|ftp|mailto):|\bwww(?=\.)", re.IGNORECASE)
"""Places after which an invisible space keeps a text from becoming a link."""
MAX_ROWS = 10
"""Most rows of a list."""


def markdown(report: QuantizeReport | EvalReport) -> str:
    """Format the tables of the terminal report, with gates first; no name becomes markup."""
    report = printable_report(report)
    if isinstance(report, EvalReport):
        return _gates(report.gates) + _eval(report)
    rows = [row for row in quantize_rows(report) if row[0] or row[1]]
    return f"## onnxq quantize\n\n{_gates(report.gates)}{_table([['', ''], *rows])}\n"


def _gates(gates: Sequence[Gate]) -> str:
    if not gates:
        return ""
    lines = [f"- {'✅' if gate.holds else '❌'} {_escape(gate.line)}" for gate in gates]
    verdict = "all gates passed" if all(gate.holds for gate in gates) else "a gate failed"
    return f"**{verdict}**\n\n" + "\n".join(lines) + "\n\n"


def _eval(report: EvalReport) -> str:
    parts = [
        f"## onnxq eval\n\n{_table(eval_columns(report))}\n\n"
        f"{report.samples} samples, {report.labelled} with a label.\n"
    ]
    for score in report.scores[1:]:
        if score.classes:
            rows = [
                [str(row.label), str(row.samples), str(row.float_right), str(row.right)]
                for row in score.classes[:MAX_ROWS]
            ]
            body = _table([["class", "samples", "float correct", "correct"], *rows])
            parts.append(_folded(f"{score.model}: changed classes", body, len(score.classes)))
        if score.worst:
            rows = [
                [worst.sample, f"{worst.sqnr_db:.1f}", worst.label or "-", prediction(worst, "→")]
                for worst in score.worst
            ]
            body = _table([["sample", "SQNR dB", "label", "prediction"], *rows])
            parts.append(_folded(f"{score.model}: worst samples", body, len(score.worst)))
    return "\n".join(parts)


def _folded(title: str, body: str, count: int) -> str:
    more = f"\n\n{count - MAX_ROWS} more." if count > MAX_ROWS else ""
    return f"<details><summary>{_in_html(title)}</summary>\n\n{body}{more}\n\n</details>\n"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(_escape(cell) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def _escape(text: str) -> str:
    """Escape what Markdown or HTML would read as markup; an underscore within a word is none."""
    return _unlinked(_MARKUP.sub(r"\\\g<0>", text.replace("&", "&amp;").replace("<", "&lt;")))


def _in_html(text: str) -> str:
    """Escape a text within an HTML element, where a backslash would be shown, by character references."""
    entities = _MARKUP.sub(lambda found: f"\0{ord(found[0])};", text)
    return _unlinked(html.escape(entities)).replace("\0", "&#")


def _unlinked(text: str) -> str:
    """Break mentions, references and addresses, which GitHub and GitLab find in plain text too."""
    return _LINKED.sub(r"\g<0>&#8203;", text)
