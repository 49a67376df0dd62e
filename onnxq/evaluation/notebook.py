"""Tables of reports for notebooks."""

import html
from collections.abc import Sequence


def html_table(rows: Sequence[Sequence[str]], *, header: bool = False) -> str:
    """Return rows of texts as an HTML table; the first row is a header if `header`."""
    lines = []
    for index, row in enumerate(rows):
        tag = "th" if header and index == 0 else "td"
        cells = "".join(f'<{tag} style="text-align:left">{html.escape(str(cell))}</{tag}>' for cell in row)
        lines.append(f"<tr>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"
