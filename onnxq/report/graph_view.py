"""The graph of a quantized model as SVG, and the facts of its nodes for the page's script."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from onnxq.evaluation.layer_errors import Histogram, Layer
from onnxq.report.graph_layout import Layout, blocks, layout

ERROR_DB = (40.0, 30.0, 20.0, 10.0)
"""Lower ends of the classes of SQNR, dB; the last class is below."""
TIME_SHARES = (0.005, 0.01, 0.03, 0.08)
"""Upper ends of the classes of a node's share of the time; the last class is above."""
REASONS = 6
"""Most reasons with a colour of their own, the most frequent ones."""
NODE, BLOCK = (92.0, 22.0), (178.0, 40.0)
"""Width and height of a node and of a block, pixels."""
CHARACTER = 6.6
"""Width of a character in a box, pixels."""
FEW = 150
"""Nodes up to which the page starts with the nodes, not the blocks."""


@dataclass(frozen=True)
class Graph:
    """Drawings of a graph.

    nodes, blocks  SVG elements of the two levels of detail
    reasons        reason and number of nodes for each colour, most frequent first
    facts          JSON for the script, safe inside a script element
    few            whether the nodes are few enough to start with
    """

    nodes: str
    blocks: str
    reasons: list[tuple[str, int]]
    facts: str
    few: bool


def graph(layers: Sequence[Layer], histograms: Sequence[Histogram]) -> Graph | None:
    """Draw the layers of a report; None without layers."""
    if not layers:
        return None
    total = sum(row.int8_ms or 0.0 for row in layers)
    counts = Counter(row.reason or "not planned" for row in layers if not row.planned)
    reasons = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    colours = {reason: min(i, REASONS - 1) for i, (reason, _) in enumerate(reasons)}
    classes = [_classes([row], total, colours) for row in layers]
    inputs = [row.inputs for row in layers]
    boxes = [(row.op_type, "", f"{row.name} ({row.op_type})") for row in layers]
    drawn = _svg("nodes", layout(inputs, *NODE), inputs, NODE, boxes, classes)
    groups = blocks([row.name for row in layers])
    return Graph(
        drawn,
        _blocks(layers, groups, total, colours),
        _shown(reasons),
        _facts(layers, histograms, groups, total),
        len(layers) <= FEW,
    )


def _shown(reasons: list[tuple[str, int]]) -> list[tuple[str, int]]:
    if len(reasons) <= REASONS:
        return reasons
    rest = reasons[REASONS - 1 :]
    return [*reasons[: REASONS - 1], (f"{len(rest)} other reasons", sum(count for _, count in rest))]


def _classes(rows: Sequence[Layer], total: float, colours: dict[str, int]) -> str:
    """Return the CSS classes of a node or a block: its error (worst), its time (sum) and its reason."""
    errors = [row.sqnr_db for row in rows if row.sqnr_db is not None]
    error = str(sum(min(errors) < end for end in ERROR_DB)) if errors else "x"
    share = sum(row.int8_ms or 0.0 for row in rows) / total if total else 0.0
    timed = any(row.int8_ms is not None for row in rows)
    time = str(sum(share > end for end in TIME_SHARES)) if timed else "x"
    if any(row.planned for row in rows):
        reason = "i"
    else:
        reason = str(colours[Counter(row.reason or "not planned" for row in rows).most_common(1)[0][0]])
    return f"e{error} t{time} k{reason}"


def _blocks(layers: Sequence[Layer], groups: list[list[int]], total: float, colours: dict[str, int]) -> str:
    """Draw the groups of nodes."""
    block_of = {i: number for number, group in enumerate(groups) for i in group}
    inputs = [
        sorted({block_of[j] for i in group for j in layers[i].inputs} - {number})
        for number, group in enumerate(groups)
    ]
    boxes, classes = [], []
    for group in groups:
        rows = [layers[i] for i in group]
        share = sum(row.int8_ms or 0.0 for row in rows) / total if total else 0.0
        name = block_name([row.name for row in rows])
        part = f", {share:.1%} of the time" if total else ""
        boxes.append((name, f"{len(rows)} nodes{part}", name))
        classes.append(_classes(rows, total, colours))
    return _svg("blocks", layout(inputs, *BLOCK), inputs, BLOCK, boxes, classes)


def block_name(names: Sequence[str]) -> str:
    """Return the scope that all names share, or else the first name."""
    scopes = [name.strip("/").split("/")[:-1] for name in names]
    shared = []
    for parts in zip(*(scope for scope in scopes if scope), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "/".join(shared) or names[0]


def _svg(
    level: str,
    placed: Layout,
    inputs: Sequence[Sequence[int]],
    size: tuple[float, float],
    boxes: Sequence[tuple[str, str, str]],
    classes: Sequence[str],
) -> str:
    """Draw boxes, each with a title line, a second line and a tooltip, and edges."""
    width, height = size
    edges = "".join(f'<path d="{path}"/>' for path in placed.paths)
    parts = []
    letters = int((width - 8) / CHARACTER)
    for i, ((x, y), (title, line, tip), kind) in enumerate(zip(placed.places, boxes, classes, strict=True)):
        second = f'<text x="{width / 2:.0f}" y="32" class="less">{escape(line)}</text>' if line else ""
        parts.append(
            f'<g id="{level[0]}{i}" class="n {kind}" transform="translate({x:.0f} {y:.0f})">'
            f"<title>{escape(tip)}</title>"
            f'<rect width="{width:.0f}" height="{height:.0f}" rx="4"/>'
            f'<text x="{width / 2:.0f}" y="15">{escape(_short(title, letters))}</text>{second}</g>'
        )
    count = sum(len(each) for each in inputs)
    label = f"graph of {len(boxes)} {level} and {count} edges"
    return (
        f'<svg class="graph {level}" data-width="{placed.width:.0f}" data-height="{placed.height:.0f}" '
        f'viewBox="0 0 {placed.width:.0f} {placed.height:.0f}" role="img" aria-label="{label}" tabindex="0">'
        f'<g class="edges">{edges}</g>{"".join(parts)}</svg>'
    )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _facts(
    layers: Sequence[Layer], histograms: Sequence[Histogram], groups: list[list[int]], total: float
) -> str:
    """Return the facts as JSON whose text cannot end a script element."""
    reasons = list(dict.fromkeys(row.reason for row in layers if row.reason))
    numbers = {row.name: i for i, row in enumerate(histograms)}
    nodes: list[list[Any]] = []
    for row in layers:
        shown = next((numbers[name] for name in row.outputs if name in numbers), None)
        nodes.append(
            [
                row.name,
                row.op_type,
                round(row.macs, 5),
                int(row.planned),
                reasons.index(row.reason) if row.reason else None,
                _rounded(row.sqnr_db, 2),
                _rounded(row.float_ms, 4),
                _rounded(row.int8_ms, 4),
                row.inputs,
                shown,
                None if row.weight is None else [row.weight.bits, row.weight.bytes, row.weight.float_bytes],
            ]
        )
    tensors = [
        [
            row.name,
            *(float(f"{v:.5g}") for v in (row.minimum, row.maximum, row.low, row.high)),
            row.clipped,
            row.counts,
        ]
        for row in histograms
    ]
    facts = {
        "nodes": nodes,
        "reasons": reasons,
        "tensors": tensors,
        "blocks": [[group[0], group[-1]] for group in groups],
        "total": round(total, 6),
    }
    text = json.dumps(facts, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)
