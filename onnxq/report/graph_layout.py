"""Layered layout of a directed graph for drawing, the same for the same graph.

Ranks by longest path, order in a rank by barycenters, positions by least squares that keep this order
(Sugiyama, Tagawa and Toda 1981). Many ranks are cut into columns, as in a newspaper, so that a model of
thousands of nodes fits on a screen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

LONG = 40
"""Ranks up to which an edge keeps a lane between the nodes; longer edges go around them."""
SWEEPS, ALIGNMENTS = 8, 6
"""Passes that order the ranks, and passes that set positions."""
GAP, LANE, BETWEEN, GUTTER, MARGIN = 12.0, 12.0, 18.0, 34.0, 16.0
"""Pixels between two nodes, for an edge, between two ranks, between two columns and around all."""
FEWEST, MOST, GROUPED = 12, 90, 6
"""Groups of a small and of a large graph, and the mean number of nodes in a group between them."""
RATIO = 1.9
"""Width of the drawing / its height."""


@dataclass(frozen=True)
class Layout:
    """Positions in pixels.

    places         left upper corner of each node
    paths          SVG path of each edge
    width, height  size of the whole drawing
    """

    places: list[tuple[float, float]]
    paths: list[str]
    width: float
    height: float


def layout(inputs: Sequence[Sequence[int]], node_width: float, node_height: float) -> Layout:
    """Lay out a graph.

    Args:
        inputs: for each node, the indices of earlier nodes with an edge to it.
        node_width: of each node, pixels.
        node_height: of each node, pixels.
    """
    if not inputs:
        return Layout([], [], 0.0, 0.0)
    ranks = _ranks(inputs)
    widths = [node_width] * len(inputs)
    lanes = [_lane(u, v, ranks, widths) for v, before in enumerate(inputs) for u in before]
    rows: list[list[int]] = [[] for _ in range(max(ranks) + 1)]
    for item, rank in enumerate(ranks):
        rows[rank].append(item)
    links = [(a, b) for lane in lanes for a, b in pairwise(lane)]
    near = _neighbours([link for link in links if ranks[link[1]] - ranks[link[0]] == 1], len(ranks))
    _order(rows, near)
    xs = _positions(rows, near, widths)
    return _Columns(rows, xs, widths, node_height).drawn(ranks, lanes, len(inputs))


def _ranks(inputs: Sequence[Sequence[int]]) -> list[int]:
    """Return the length of the longest path to each node; a node without inputs is right before its use."""
    ranks: list[int] = []
    for before in inputs:
        ranks.append(1 + max((ranks[u] for u in before), default=-1))
    first: dict[int, int] = {}
    for v, before in enumerate(inputs):
        for u in before:
            first[u] = min(first.get(u, ranks[v]), ranks[v])
    return [first[v] - 1 if not before and v in first else ranks[v] for v, before in enumerate(inputs)]


def _lane(u: int, v: int, ranks: list[int], widths: list[float]) -> list[int]:
    """Return the items of an edge: its nodes, and a new item in each rank between them if it is not long."""
    between = range(ranks[u] + 1, ranks[v])
    if len(between) >= LONG:
        return [u, v]
    start = len(ranks)
    ranks += between
    widths += [LANE] * len(between)
    return [u, *range(start, len(ranks)), v]


def _neighbours(links: Sequence[tuple[int, int]], count: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return the items before and the items after each item."""
    before: list[list[int]] = [[] for _ in range(count)]
    after: list[list[int]] = [[] for _ in range(count)]
    for a, b in links:
        before[b].append(a)
        after[a].append(b)
    return before, after


def _order(rows: list[list[int]], near: tuple[list[list[int]], list[list[int]]]) -> None:
    """Sort each rank by the mean position of its neighbours, downwards and upwards in turns."""
    position = {item: float(i) for row in rows for i, item in enumerate(row)}
    for sweep in range(SWEEPS):
        side = near[sweep % 2]
        for row in rows if sweep % 2 == 0 else reversed(rows):
            means = {item: _mean([position[each] for each in side[item]], position[item]) for item in row}
            row.sort(key=lambda item: (means[item], position[item]))
            position.update({item: float(i) for i, item in enumerate(row)})


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _positions(
    rows: list[list[int]], near: tuple[list[list[int]], list[list[int]]], widths: list[float]
) -> list[float]:
    """Return the centre of each item: near the mean of its neighbours, in order and without overlap."""
    xs = [0.0] * len(widths)
    for row in rows:
        for item, x in zip(row, _spread([0.0] * len(row), row, widths), strict=True):
            xs[item] = x
    for turn in range(ALIGNMENTS):
        side = near[turn % 2]
        for row in rows if turn % 2 == 0 else reversed(rows):
            wanted = [_mean([xs[each] for each in side[item]], xs[item]) for item in row]
            for item, x in zip(row, _spread(wanted, row, widths), strict=True):
                xs[item] = x
    return xs


def _spread(wanted: Sequence[float], row: Sequence[int], widths: Sequence[float]) -> list[float]:
    """Return the centres nearest to the wanted ones, in least squares, that keep order and distance.

    Isotonic regression by pooling of neighbours that violate the order.
    """
    offsets, offset = [], 0.0
    for i, item in enumerate(row):
        offset += 0.0 if i == 0 else (widths[row[i - 1]] + widths[item]) / 2 + GAP
        offsets.append(offset)
    pools: list[tuple[float, int]] = []  # sum and number of values
    for want, shift in zip(wanted, offsets, strict=True):
        total, count = want - shift, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            before = pools.pop()
            total, count = total + before[0], count + before[1]
        pools.append((total, count))
    means = [total / count for total, count in pools for _ in range(count)]
    return [mean + shift for mean, shift in zip(means, offsets, strict=True)]


class _Columns:
    """Ranks cut into columns of one length."""

    def __init__(
        self, rows: list[list[int]], xs: list[float], widths: list[float], node_height: float
    ) -> None:
        self.xs, self.node_height, self.pitch = xs, node_height, node_height + BETWEEN
        self.low = [min(xs[item] - widths[item] / 2 for item in row) for row in rows]
        self.high = [max(xs[item] + widths[item] / 2 for item in row) for row in rows]
        self.widths = widths
        lengths = sorted({-(-len(rows) // columns) for columns in range(1, min(len(rows), 200) + 1)})
        self.length = min(
            lengths, key=lambda length: (abs(self._width(length) - RATIO * length * self.pitch), length)
        )
        self.lefts, self.shifts = [], []
        left = MARGIN + GUTTER
        for low, high in self._extents(self.length):
            self.lefts.append(left)
            self.shifts.append(left - low)
            left += high - low + GUTTER
        self.width, self.top = left - GUTTER + MARGIN, MARGIN + 12
        self.height = self.top + min(self.length, len(rows)) * self.pitch - BETWEEN + MARGIN + 12

    def _extents(self, length: int) -> list[tuple[float, float]]:
        starts = range(0, len(self.low), length)
        return [(min(self.low[i : i + length]), max(self.high[i : i + length])) for i in starts]

    def _width(self, length: int) -> float:
        return sum(high - low + GUTTER for low, high in self._extents(length))

    def _at(self, item: int, rank: int) -> tuple[float, float]:
        """Return the middle of the upper edge of an item."""
        column, row = divmod(rank, self.length)
        return self.xs[item] + self.shifts[column], self.top + row * self.pitch

    def drawn(self, ranks: list[int], lanes: list[list[int]], nodes: int) -> Layout:
        """Return the layout of the nodes, the first items, and of their edges."""
        places = [
            (x - self.widths[item] / 2, y) for item in range(nodes) for x, y in [self._at(item, ranks[item])]
        ]
        return Layout(places, [self._path(lane, ranks) for lane in lanes], self.width, self.height)

    def _path(self, lane: list[int], ranks: list[int]) -> str:
        x, y = self._at(lane[0], ranks[lane[0]])
        y += self.node_height
        parts = [f"M{x:.0f} {y:.0f}"]
        for a, b in pairwise(lane):
            column = ranks[b] // self.length
            to_x, to_y = self._at(b, ranks[b])
            if ranks[b] - ranks[a] > 1 or column != ranks[a] // self.length:
                parts.append(self._around(ranks[a] // self.length, column, y, to_x, to_y))
            elif abs(to_x - x) < 1:
                parts.append(f"V{to_y:.0f}")
            else:
                middle = (y + to_y) / 2
                parts.append(f"C{x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f} {to_x:.0f} {to_y:.0f}")
            x, y = to_x, to_y
            if b != lane[-1]:  # through the rank, beside its nodes
                y += self.node_height
                parts.append(f"V{y:.0f}")
        return "".join(parts)

    def _around(self, source: int, target: int, y: float, to_x: float, to_y: float) -> str:
        """Return the rest of a path that goes in the gutters beside the columns and above them."""
        to_gutter = self.lefts[target] - GUTTER / 2
        if source == target:
            return f"V{y + 7:.0f}H{to_gutter:.0f}V{to_y - 7:.0f}H{to_x:.0f}V{to_y:.0f}"
        gutter = self.lefts[source + 1] - GUTTER / 2
        return (
            f"V{y + 7:.0f}H{gutter:.0f}V{self.top - 11:.0f}H{to_gutter:.0f}V{to_y - 7:.0f}"
            f"H{to_x:.0f}V{to_y:.0f}"
        )


def blocks(names: Sequence[str]) -> list[list[int]]:
    """Group consecutive nodes by the scopes in their names, such as /layer1/block0/conv.

    Without enough scopes the groups are of equal length. Edges between groups of consecutive nodes have no
    cycle, because each edge of the graph goes to a later node.

    Args:
        names: names of the nodes, in the order of the graph.
    """
    most = max(FEWEST, min(MOST, len(names) // GROUPED))
    scopes = [name.strip("/").split("/")[:-1] for name in names]
    best: list[list[int]] = []
    for depth in range(1, 1 + max((len(scope) for scope in scopes), default=0)):
        runs = _runs([tuple(scope[:depth]) for scope in scopes])
        if len(runs) > most:
            break
        best = runs
    if len(best) >= min(most, len(names)) / 8:
        return best
    length = -(-len(names) // most)
    return [list(range(i, min(i + length, len(names)))) for i in range(0, len(names), length)]


def _runs(keys: Sequence[tuple[str, ...]]) -> list[list[int]]:
    """Group consecutive indices of equal keys; a node without a scope joins the group before it."""
    runs: list[list[int]] = []
    last: tuple[str, ...] | None = None
    for i, key in enumerate(keys):
        if runs and key in (last, ()):
            runs[-1].append(i)
        else:
            runs.append([i])
            last = key
    return runs
