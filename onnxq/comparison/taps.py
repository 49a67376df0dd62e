"""Taps: places where outputs are compared, either themselves or in front of a decision.

A Softmax hides small errors, and shows a changed decision as a large one. A selection (TopK,
NonMaxSuppression, ArgMax, ...) gives other values, or another order, wherever a decision changes: a
comparison row by row says nothing. So the values in front of it are compared, and the selected entries
that both models share are counted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import attribute, is_constant, values_read
from onnxq.graph.macs import WITH_MACS
from onnxq.types import Array

VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast", "Identity"})
SOFTMAX = frozenset({"Softmax", "LogSoftmax"})
COMPARISONS = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
SELECTIONS = {"TopK": 1, "NonMaxSuppression": 0, "ArgMax": 0, "ArgMin": 0}
"""Operators that select by float values, with the index of the output that holds the selection."""
DATA_SIZED = frozenset({"NonMaxSuppression", "NonZero", "Compress", "Unique"})
"""Operators whose number of results depends on the data."""


@dataclass(frozen=True)
class Tap:
    """An output and the value compared for it.

    output    index among the model's outputs
    name      of the output, as shown
    node, slot  the compared value is this input of that node; the output itself where `node` is None
    selected  whether a selection gives the output, so that the output itself is not compared
    axis      along which the largest value decides, if one does
    captured  name of the compared value, where a body of the node reads it
    """

    output: int
    name: str
    node: str | None = None
    slot: int = 0
    selected: bool = False
    axis: int | None = None
    captured: str | None = None

    def found(self, model: ir.Model) -> ir.Value | None:
        """Return the compared value in a form of the model, or None where it lacks the node."""
        if self.node is None:
            return model.graph.outputs[self.output]
        if self.captured is not None:
            return next(
                (value for node in model.graph for value in node.outputs if value.name == self.captured), None
            )
        node = next((node for node in model.graph if node.name == self.node), None)
        return node.inputs[self.slot] if node is not None and self.slot < len(node.inputs) else None

    def inner(self, model: ir.Model) -> ir.Value:
        """Return the compared value in a form of the model; the output itself where it lacks the node."""
        return self.found(model) or model.graph.outputs[self.output]

    def outer(self, model: ir.Model) -> ir.Value:
        """Return the output, or the value compared instead where the output comes from a selection."""
        return self.inner(model) if self.selected else model.graph.outputs[self.output]


def find_taps(model: ir.Model) -> list[Tap]:
    """Return a tap for each output, or for each value in front of the selection that it comes from."""
    selected = _behind_selections(model)
    taps: list[Tap] = []
    for index, output in enumerate(model.graph.outputs):
        producer = output.producer()
        if producer in selected:
            taps += [tap for tap in _entries(model, index, selected, producer) if tap not in taps]
        else:
            taps.append(_softmax_tap(model, index))
    return _unique(taps, model)


@dataclass(frozen=True)
class Selection:
    """A node that selects by computed values.

    slot  output that holds the selected indices
    axis  along which they are in any order; None where each index is a decision of its own
    rows  whether the indices are rows [selected, 3], as those of NonMaxSuppression
    """

    node: str
    slot: int
    axis: int | None
    rows: bool = False

    def same(self, wanted: Array, found: Array) -> tuple[float, float]:
        """Return twice the number of entries in both, and the number of entries in each, added."""
        if self.rows:
            sets = [{tuple(row) for row in array.tolist()} for array in (wanted, found)]
            return 2.0 * len(sets[0] & sets[1]), float(len(sets[0]) + len(sets[1]))
        if wanted.shape != found.shape:
            return 0.0, float(wanted.size + found.size)
        if self.axis is None:
            return 2.0 * int(np.count_nonzero(wanted == found)), 2.0 * wanted.size
        one, other = (
            np.moveaxis(array, self.axis, -1).reshape(-1, array.shape[self.axis]) for array in (wanted, found)
        )
        return 2.0 * sum(
            len(np.intersect1d(a, b)) for a, b in zip(one, other, strict=True)
        ), 2.0 * wanted.size


def find_selections(model: ir.Model) -> list[Selection]:
    """Return the nodes of the main graph that select by computed values."""
    computed = _reached(model, [node for node in model.graph if node.op_type in WITH_MACS])
    found = []
    for node in model.graph:
        if node in computed and node.op_type in SELECTIONS and node.outputs[SELECTIONS[node.op_type]].name:
            axis = _axis(node, -1) if node.op_type == "TopK" else None
            found.append(
                Selection(
                    node.name or "", SELECTIONS[node.op_type], axis, node.op_type == "NonMaxSuppression"
                )
            )
    return found


def _axis(node: ir.Node, default: int) -> int:
    """Return a node's attribute `axis`."""
    return int(attribute(node, "axis", default))  # type: ignore[arg-type]


def _softmax_tap(model: ir.Model, index: int) -> Tap:
    """Return the tap of an output: in front of its final Softmax, if it has one."""
    output = model.graph.outputs[index]
    node = output.producer()
    while node is not None and node.op_type in VIEWS:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    name = output.name or ""
    if node is None or node.op_type not in SOFTMAX or node.graph is not model.graph:
        return Tap(index, name)
    return Tap(index, name, node.name, axis=_axis(node, -1))


def _reached(model: ir.Model, starts: Iterable[ir.Node]) -> set[ir.Node]:
    """Return the nodes of the main graph that depend on the given ones, these included."""
    found = set(starts)
    for node in model.graph:
        if node not in found and any(
            value is not None and value.producer() in found for value in values_read(node)
        ):
            found.add(node)
    return found


def _behind_selections(model: ir.Model) -> set[ir.Node]:
    """Return the nodes whose values may change in order or number when a computed decision changes.

    A selection in the middle of a model, with products behind it, counts only where the number of values
    depends on it. If a few values choose an expert or a token, the outputs remain comparable.
    """
    computed = _reached(model, [node for node in model.graph if node.op_type in WITH_MACS])
    behind = set[ir.Node]()
    for start in [node for node in model.graph if node in computed and _selects(node, computed)]:
        if start not in behind:
            reached = _reached(model, [start])
            if any(_contains(node, DATA_SIZED) for node in reached) or not any(
                node.op_type in WITH_MACS for node in reached
            ):
                behind |= reached
    return behind


def _selects(node: ir.Node, computed: set[ir.Node]) -> bool:
    """Check that a node selects or compares by computed floats, or has a body with data-sized results."""
    if node.op_type in SELECTIONS or node.op_type in COMPARISONS:
        return any(
            value is not None
            and value.producer() in computed
            and (value.dtype is None or value.dtype.is_floating_point())
            for value in node.inputs[:2]
        )
    return node.op_type in ("If", "Loop", "Scan") and _contains(node, DATA_SIZED)


def _contains(node: ir.Node, kinds: Iterable[str]) -> bool:
    """Check that a node is of one of these kinds, or has one in a body."""
    if node.op_type in kinds:
        return True
    graphs = [
        each.as_graph()
        for each in node.attributes.values()
        if isinstance(each, ir.Attr) and each.type == ir.AttributeType.GRAPH
    ]
    return any(_contains(inner, kinds) for graph in graphs for inner in graph)


def _entries(model: ir.Model, index: int, behind: set[ir.Node], producer: ir.Node | None) -> list[Tap]:
    """Return taps of the computed floats in front of the first selections that an output comes from."""
    wanted, pending = set[ir.Node](), [producer]
    while pending:
        node = pending.pop()
        if node is not None and node in behind and node not in wanted:
            wanted.add(node)
            pending += [value.producer() for value in values_read(node) if value is not None]
    computed = _reached(model, [node for node in model.graph if node.op_type in WITH_MACS])
    taps = []
    for node in model.graph:
        if node not in wanted:
            continue
        for slot, value in enumerate(values_read(node)):
            if (
                value is None
                or is_constant(value)
                or value.producer() in behind
                or value.producer() not in computed
            ):
                continue
            if value.dtype is None or value.dtype.is_floating_point():
                axis = _axis(node, 0) if node.op_type in ("ArgMax", "ArgMin") else None
                captured = value.name if slot >= len(node.inputs) else None
                taps.append(
                    Tap(index, value.name or "", node.name, slot, selected=True, axis=axis, captured=captured)
                )
    return taps


def _unique(taps: Sequence[Tap], model: ir.Model) -> list[Tap]:
    """Drop taps of a value that another tap reads too; one at an output stays, and takes over the axis."""
    found: dict[ir.Value, Tap] = {}
    for tap in sorted(taps, key=lambda tap: tap.selected):
        key = tap.inner(model) if tap.selected else model.graph.outputs[tap.output]
        known = found.setdefault(key, tap)
        if known.axis is None and tap.axis is not None:
            found[key] = replace(known, axis=tap.axis)
    return list(found.values())
