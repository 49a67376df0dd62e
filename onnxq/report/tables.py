"""Tables and numbers for a terminal."""

import re
import textwrap
from collections.abc import Sequence

SHORT_NAME, LEAST_TEXT = 20, 24
"""Characters to which a name is cut at most, and least width of a column of text."""

_IN_FRONT_OF_UNIT = re.compile(r"(?<=\d) (?=(?:s|ms|dB|B|kB|MB|GB)\b)")
"""A space that does not end a line."""


def size(count: int) -> str:
    """Format a number of bytes: 512 B, 1.2 kB, 17.3 MB."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB"):  # noqa: B007
        if value < 1000:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def table(rows: Sequence[Sequence[str]], *, left: int = 1, width: int | None = None) -> str:
    """Format rows as a table; align the first `left` columns left, the others right.

    Args:
        rows: of one length each, the first one the header.
        left: number of columns aligned left.
        width: columns of the terminal, into which the table is fitted: a last column of text is wrapped, long
            names in the first column lose their beginning, and then columns go into tables below one another.
    """
    widths = _widths(rows)
    needed = sum(widths) + 2 * (len(widths) - 1)
    if width is None or needed <= width:
        return _aligned(rows, widths, left)
    if left == len(widths):
        return _wrapped(rows, widths, width)
    widths[0] = max(min(widths[0], SHORT_NAME), widths[0] - (needed - width))
    rows = [[_end(row[0], widths[0]), *row[1:]] for row in rows]
    parts, first = [], 1
    while first < len(widths):
        last, used = first + 1, widths[0] + 2 + widths[first]
        while last < len(widths) and used + 2 + widths[last] <= width:
            used, last = used + 2 + widths[last], last + 1
        shown = [[row[0], *row[first:last]] for row in rows]
        parts.append(_aligned(shown, [widths[0], *widths[first:last]], max(1, min(left - first + 1, last))))
        first = last
    return "\n\n".join(parts)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]


def _aligned(rows: Sequence[Sequence[str]], widths: Sequence[int], left: int) -> str:
    lines = []
    for row in rows:
        cells = [
            cell.ljust(w) if i < left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _wrapped(rows: Sequence[Sequence[str]], widths: Sequence[int], width: int) -> str:
    """Format rows whose last column is text, which continues below itself."""
    room = max(LEAST_TEXT, width - sum(widths[:-1]) - 2 * (len(widths) - 1))
    found: list[list[str]] = []
    for row in rows:
        lines = _lines(row[-1], room) or [""]
        found.append([*row[:-1], lines[0]])
        found += [[*([""] * (len(row) - 1)), line] for line in lines[1:]]
    return _aligned(found, _widths(found), len(widths))


def _end(text: str, most: int) -> str:
    return text if len(text) <= most else f"…{text[len(text) - most + 1 :]}"


def wrapped(text: str, width: int | None) -> str:
    """Wrap a line to the width of the terminal."""
    if width is None or len(text) <= width:
        return text
    return "\n".join(_lines(text, width, indent="  ", break_long_words=False))


def _lines(text: str, width: int, *, indent: str = "", break_long_words: bool = True) -> list[str]:
    """Wrap a text; a number and its unit stay together."""
    kept = _IN_FRONT_OF_UNIT.sub("\N{NO-BREAK SPACE}", text)
    lines = textwrap.wrap(
        kept, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=break_long_words
    )
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def some(names: Sequence[str], most: int = 3) -> str:
    """List a few names, and count the others."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, {len(names) - most} more"


def percent(value: float | None) -> str:
    """Format a share as a percentage."""
    return "-" if value is None else f"{value:.2%}"


def number(value: float | None, form: str) -> str:
    """Format a number; a dash where there is none."""
    return "-" if value is None else form.format(value)
