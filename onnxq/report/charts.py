"""Charts as SVG: axes with round values, numbered points, labels that never overlap.

Colours are the page's CSS variables. Texts are escaped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 270
"""Size of a scatter chart, pixels."""
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 26, 44
"""Margins of the axes."""
TEXT, LETTER = 17.0, 9.0
"""Height of a line and width of a character of a label on a narrow screen, pixels."""
NAMED_LAYERS, NAME_LENGTH = 14, 22
"""Most names at the axis of a chart of layers, and their most characters."""


Box = tuple[float, float, float, float]
"""Left, top, right and bottom, pixels."""


@dataclass(frozen=True)
class Point:
    """A model in a chart: its name, place, radius in pixels, and whether it is the one that was written.

    ends  lower and upper end of the confidence interval of y, drawn as a bar; None without one
    text  both values with their units, for the tooltip
    """

    name: str
    x: float
    y: float
    radius: float = 5.0
    kept: bool = False
    ends: tuple[float, float] | None = None
    text: str = ""


@dataclass(frozen=True)
class Axis:
    """An axis: its range, and round values inside it with their texts."""

    low: float
    high: float
    ticks: list[tuple[float, str]]

    def share(self, value: float) -> float:
        """Return the place of a value, 0 at the low end and 1 at the high end."""
        return (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)


def axis(
    values: Sequence[float],
    most: int = 5,
    include: float | None = None,
    highest: float = math.inf,
    least: float = 0.0,
) -> Axis:
    """Return an axis around finite values, with at most `most` + 1 round values.

    Values that are equal, or nearly, get a range of 2 % around them, or of `least`: noise must not fill the
    chart.

    Args:
        values: at least one.
        most: most steps between round values.
        include: another value to show.
        highest: largest value that there can be.
        least: least width of the range.
    """
    known = [*values, *([include] if include is not None else [])]
    low, high = min(known), max(known)
    least = max(least, max(abs(low), abs(high)) * 0.02) or 1.0
    pad = max((high - low) * 0.08, (least - (high - low)) / 2)
    low, high = (low if low == include == 0 else low - pad), max(high, min(high + pad, highest))
    step = _round_step((high - low) / most)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = [(i * step, f"{i * step:.{digits}f}") for i in range(first, last + 1)]
    return Axis(low, high, ticks)


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def scatter(
    points: Sequence[Point],
    x_title: str,
    y_title: str,
    line: float | None = None,
    highest: float = math.inf,
    least: float = 0.0,
) -> str:
    """Draw numbered points; the numbers are those of the table beside it, from 1.

    Args:
        points: at least one, with finite places.
        x_title: of the axis.
        y_title: of the axis.
        line: x of a dashed line.
        highest: largest y that there can be.
        least: least width of the range of x.
    """
    across = axis([point.x for point in points], include=line, least=least)
    up = axis([y for point in points for y in (point.y, *(point.ends or ()))], highest=highest)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    places = [
        (LEFT + (right - LEFT) * across.share(point.x), bottom - (bottom - TOP) * up.share(point.y))
        for point in points
    ]
    parts = [*_grid(across, up, right, bottom), *_titles(x_title, y_title, right)]
    if line is not None:
        x = LEFT + (right - LEFT) * across.share(line)
        parts.append(f'<path d="M{x:.1f} {TOP}V{bottom}" class="mark"/>')
    bars: list[Box] = []
    for i, (point, (x, y)) in enumerate(zip(points, places, strict=True)):
        kind = "dot kept" if point.kept else "dot"
        if point.ends is not None:
            low, high = (bottom - (bottom - TOP) * up.share(end) for end in point.ends)
            bars.append((x - 6, high, x + 6, low))
            parts.append(
                f'<path d="M{x:.1f} {low:.1f}V{high:.1f}M{x - 5:.1f} {low:.1f}h10M{x - 5:.1f} {high:.1f}h10" '
                'class="spread"/>'
            )
        title = escape(f"{i + 1}: {point.name}: {point.text or f'{point.y:.4g} at {point.x:.3g}'}")
        parts.append(
            f'<circle class="{kind}" data-point="{i}" cx="{x:.1f}" cy="{y:.1f}" r="{point.radius:.1f}">'
            f"<title>{title}</title></circle>"
        )
    texts = [str(i + 1) for i in range(len(points))]
    radii = [point.radius for point in points]
    spread = spread_labels(texts, places, radii, bars)
    for text, (x, y), (dot_x, dot_y) in zip(texts, spread, places, strict=True):
        if math.hypot(x - dot_x, y - dot_y) > 34:
            parts.append(f'<path d="M{dot_x:.1f} {dot_y:.1f}L{x:.1f} {y:.1f}" class="leader"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{text}</text>')
    label = escape(f"{y_title} over {x_title}, {len(points)} points")
    return _picture("chart", WIDTH, HEIGHT, label, parts)


def _picture(kind: str, width: int, height: int, label: str, parts: Sequence[str]) -> str:
    inside = "".join(parts)
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{inside}</svg>'
    )


def spread_labels(
    texts: Sequence[str],
    places: Sequence[tuple[float, float]],
    radii: Sequence[float],
    others: Sequence[Box] = (),
) -> list[tuple[float, float]]:
    """Return the middle of each label: near its point, over no label, no point and none of the other boxes.

    Tries places on circles around the point, from near to far.
    """
    boxes = [(x - r, y - r, x + r, y + r) for (x, y), r in zip(places, radii, strict=True)]
    boxes += others
    found = []
    for text, (x, y), radius in zip(texts, places, radii, strict=True):
        wide = len(text) * LETTER / 2 + 1
        spot = x, y
        for ring in range(1, 40):
            distance = radius + ring * 10.0
            spots = [
                (x + distance * math.cos(turn * math.pi / 4), y - distance * math.sin(turn * math.pi / 4))
                for turn in range(8)
            ]
            free = [
                spot
                for spot in spots
                if LEFT + wide <= spot[0] <= WIDTH - wide
                and TOP <= spot[1] <= HEIGHT - BOTTOM - TEXT / 2
                and not any(_overlap(_box(spot, wide), box) for box in boxes)
            ]
            if free:
                spot = free[0]
                break
        boxes.append(_box(spot, wide))
        found.append(spot)
    return found


def _box(middle: tuple[float, float], half_width: float) -> tuple[float, float, float, float]:
    x, y = middle
    return x - half_width, y - TEXT / 2, x + half_width, y + TEXT / 2


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _grid(across: Axis, up: Axis, right: float, bottom: float) -> list[str]:
    """Draw the lines of round values and their texts."""
    parts = []
    for value, text in up.ticks:
        y = bottom - (bottom - TOP) * up.share(value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" class="grid-line"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for value, text in across.ticks:
        x = LEFT + (right - LEFT) * across.share(value)
        parts.append(f'<path d="M{x:.1f} {bottom}v5" class="grid-line"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{text}</text>')
    return parts


def _titles(x_title: str, y_title: str, right: float) -> list[str]:
    return [
        f'<text x="{right}" y="{HEIGHT - 8}" text-anchor="end">{escape(x_title)}</text>',
        f'<text x="4" y="15">{escape(y_title)}</text>',
    ]


@dataclass(frozen=True)
class Line:
    """A line over layers: its CSS class and a value per layer, or None."""

    kind: str
    values: Sequence[float | None]


def layers_chart(names: Sequence[str], lines: Sequence[Line], y_title: str, low: float = 0.0) -> str:
    """Draw lines over layers in graph order; some layers are named at the axis, all in tooltips."""
    known = [value for line in lines for value in line.values if value is not None]
    if not known:
        return ""
    width, top, bottom = 1000, 26, 190
    up = axis([min(max(known), 100.0)], include=low, most=6)
    step = (width - LEFT - 150) / max(1, len(names) - 1)
    parts = [f'<text x="4" y="15">{escape(y_title)}</text>']
    for value, text in up.ticks:
        y = bottom - (bottom - top) * up.share(value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{width - 140}" class="grid-line"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    every = -(-len(names) // NAMED_LAYERS)
    for i in range(0, len(names), every):
        x = LEFT + step * i
        name = names[i] if len(names[i]) <= NAME_LENGTH else f"…{names[i][1 - NAME_LENGTH :]}"
        parts.append(f'<path d="M{x:.1f} {bottom}v5" class="grid-line"/>')
        parts.append(f'<text transform="translate({x:.1f} {bottom + 16}) rotate(24)">{escape(name)}</text>')
    for line in lines:
        spots = [
            (i, LEFT + step * i, bottom - (bottom - top) * up.share(value), value)
            for i, value in enumerate(line.values)
            if value is not None
        ]
        path = "L".join(f"{x:.1f} {y:.1f}" for _, x, y, _ in spots)
        parts.append(f'<path d="M{path}" class="line {line.kind}"/>')
        for i, x, y, value in spots:
            title = f"<title>{escape(names[i])}: {value:.1f}</title>"
            parts.append(f'<circle class="dot {line.kind}" cx="{x:.1f}" cy="{y:.1f}" r="3">{title}</circle>')
    label = escape(f"{y_title} of {len(names)} layers")
    return _picture("layers", width, 272, label, parts)


def bars(counts: Sequence[int], width: int, height: int) -> str:
    """Draw bars as an SVG path; the logarithmic scale shows tails of a distribution."""
    most = math.log1p(max(counts, default=0)) or 1.0
    step = width / max(1, len(counts))
    return "".join(
        f"M{i * step:.1f} {height}v{-math.log1p(count) / most * height:.1f}h{step:.1f}V{height}z"
        for i, count in enumerate(counts)
        if count
    )


def curve(values: Sequence[float], width: int, height: int) -> str:
    """Draw values, such as a waveform, as an SVG path: the least and largest of each pixel."""
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    columns = min(width, len(values))
    points = []
    for i in range(columns):
        part = values[i * len(values) // columns : (i + 1) * len(values) // columns]
        for value in (min(part), max(part)) if len(part) > 1 else part:
            points.append(f"{width * i / columns:.1f} {height - (value - low) / span * height:.1f}")
    return "M" + "L".join(points)
