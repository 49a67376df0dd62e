"""Parts of an output: values of different kinds that share a tensor, each judged against its own signal.

A detector's output often holds box coordinates of hundreds beside scores of at most 1. One ratio of noise to signal over the
whole tensor says nothing about the scores. Parts are found in two ways: from the graph, where a Concat put them together, and
from the values, where indices along an axis differ in scale.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import attribute, constant, permutation
from onnxq.graph.macs import ShapeByName
from onnxq.types import Array

ALIKE = frozenset(
    {
        "Abs",
        "Cast",
        "Clip",
        "Elu",
        "Erf",
        "Exp",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "Log",
        "Neg",
        "Relu",
        "Sigmoid",
    }
    | {"Softplus", "Sqrt", "Tanh", "Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Softmax"}
)
"""Operators that keep each value in its place, of their first operand of the output's shape."""
BOUNDED = frozenset({"Sigmoid", "HardSigmoid", "Softmax", "Tanh"})
"""Operators whose values have a natural unit: at most 1."""
SCALING = frozenset({"Add", "Div", "Exp", "Log", "Mul", "Pow", "PRelu", "Softplus", "Sqrt", "Sub"})
"""Operators behind which a bound of 1 does not hold any more, except that of a product of bounded values."""
CUTS = frozenset({"Slice", "Split"})
VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
MOST_OPERANDS, MOST_GROUPS = 16, 8
"""Operands of a Concat, and groups of an axis, beyond which they are not kinds of values but many of one kind."""
MOST_INDICES = 512
"""Longest axis whose indices are compared."""
APART = 4.0
"""Factor between the root mean squares of neighbouring groups."""
LEAST_SAMPLES = 4
ABSOLUTE_FLOOR = 1e-6
"""Root mean square below which values count as zero."""
NOTHING = 3e-4
"""Indices whose largest value is less than this share of the largest of all hold nothing: they are no kind of their own."""
BOUNDED_FLOOR = 0.1
"""Least signal of values of at most 1, a sample: one score of 0.3, below which no detector and no classifier decides for anything."""


@dataclass(frozen=True)
class Part:
    """Values that are judged together.

    value    index of the observed value that they belong to
    name     as shown, for example output0[:, 4:22]
    region   (axis, indices) pairs, each a slice or an array of indices, taken one after the other; () is the whole value
    floor    least mean square that counts as their signal, ...
    least    ... and least sum of squares a sample
    sizes    (axis, length) that a value must have for the region to apply
    """

    value: int
    name: str
    region: tuple[tuple[int, slice | tuple[int, ...]], ...] = ()
    floor: float = ABSOLUTE_FLOOR**2
    least: float = 0.0
    sizes: tuple[tuple[int, int], ...] = ()

    def of(self, array: Array) -> Array | None:
        """The part's values of an observed value, or None where its shape is another."""
        if any(axis >= array.ndim or array.shape[axis] != length for axis, length in self.sizes):
            return None
        for axis, indices in self.region:
            chosen = indices if isinstance(indices, slice) else list(indices)
            array = array[(slice(None),) * axis + (chosen,)]
        return array


@dataclass(frozen=True)
class _Leaf:
    """Values that come from one operand of each Concat behind an output; `spans` are (axis, start, stop).

    bounded  whether they are at most 1, by an operator behind which nothing scales them
    scaled   whether one that scales lies between here and the output
    """

    spans: tuple[tuple[int, int, int], ...] = ()
    bounded: bool = False
    scaled: bool = False


def find_parts(
    value: ir.Value, index: int, name: str, shapes: ShapeByName, seen: Sequence[Array]
) -> list[Part]:
    """The parts of an observed value.

    Args:
        value: in the float model.
        index: of the value among those observed.
        name: of the output, as shown.
        shapes: static shapes of the float model's values.
        seen: the value itself for some samples.
    """
    shape = shapes.get(value.name or "")
    ranks = {array.ndim for array in seen}
    if shape is None or ranks - {len(shape)}:
        shape = list(seen[0].shape) if len(ranks) == 1 else []
        leaves = {_Leaf(): None}
    else:
        leaves = dict.fromkeys(_leaves(value, [(axis, 0) for axis in range(len(shape))], _Leaf(), shapes))
    fixed = {axis for axis, size in enumerate(shape) if all(array.shape[axis] == size for array in seen)}
    leaves = dict.fromkeys(
        replace(leaf, spans=tuple(span for span in leaf.spans if span[0] in fixed)) for leaf in leaves
    )
    return [part for leaf in leaves for part in _parts_of(leaf, index, name, shape, seen)]


def _leaves(
    value: ir.Value, axes: list[tuple[int, int] | None], leaf: _Leaf, shapes: ShapeByName
) -> Iterator[_Leaf]:
    """Follow a value back to the Concats that it is made of.

    `axes` says of each axis of the value which axis of the output it is, and where it starts there; None where it is none.
    """
    node, shape = value.producer(), shapes.get(value.name or "")
    if node is None or shape is None or node.domain not in ("", "ai.onnx"):
        yield leaf
        return
    if (node.op_type in BOUNDED or _within_one(node)) and not leaf.scaled:
        leaf = replace(leaf, bounded=True)
    elif node.op_type in SCALING and not all(each is not None and _is_bounded(each) for each in node.inputs):
        leaf = replace(leaf, scaled=True)
    if node.op_type == "Concat":
        yield from _operands(node, axes, leaf, shapes)
        return
    source = next(
        (each for each in node.inputs if each is not None and _follows(node, each, shape, shapes)), None
    )
    if source is None:
        yield leaf
        return
    before = shapes[source.name or ""]
    if node.op_type == "Transpose":
        order = permutation(node) or tuple(reversed(range(len(shape))))
        mapped: list[tuple[int, int] | None] = [None] * len(shape)
        for at, origin in enumerate(order):
            mapped[origin] = axes[at]
    elif node.op_type in VIEWS:
        same = _same_axes(before, shape)
        mapped = [axes[same[axis]] if axis in same else None for axis in range(len(before))]
    elif node.op_type in CUTS:
        mapped = [place if before[axis] == shape[axis] else None for axis, place in enumerate(axes)]
    else:
        mapped = axes
    yield from _leaves(source, mapped, leaf, shapes)


def _follows(node: ir.Node, source: ir.Value, shape: Sequence[int], shapes: ShapeByName) -> bool:
    """Whether a node's values are those of one of its inputs, each in its place or moved as a view moves them."""
    before = shapes.get(source.name or "")
    if before is None or constant(source) is not None:
        return False
    if node.op_type == "Transpose" or (node.op_type in VIEWS | CUTS and source is node.inputs[0]):
        steps = constant(node.inputs[4]) if node.op_type == "Slice" and len(node.inputs) > 4 else None
        return steps is None or bool((steps > 0).all())
    return node.op_type in ALIKE and list(before) == list(shape)


def _operands(
    node: ir.Node, axes: list[tuple[int, int] | None], leaf: _Leaf, shapes: ShapeByName
) -> Iterator[_Leaf]:
    """The leaves of a Concat's operands; the Concat itself where its axis is none of the output's, or its operands are many."""
    along = int(attribute(node, "axis", 0))  # type: ignore[arg-type]
    sizes = [shapes.get(each.name or "") if each is not None else None for each in node.inputs]
    place = axes[along]
    if place is None or None in sizes or not 1 < len(sizes) <= MOST_OPERANDS:
        yield leaf
        return
    axis, start = place
    for operand, size in zip(node.inputs, sizes, strict=True):
        assert size is not None
        assert operand is not None
        stop = start + size[along]
        if stop > start:
            inner = list(axes)
            inner[along] = axis, start
            narrowed = replace(
                leaf, spans=(*(span for span in leaf.spans if span[0] != axis), (axis, start, stop))
            )
            yield from _leaves(operand, inner, narrowed, shapes)
        start = stop


def _is_bounded(value: ir.Value) -> bool:
    """Whether a value comes from an operator whose values are at most 1, perhaps through views."""
    node = value.producer()
    while node is not None and node.op_type in VIEWS | CUTS | {"Transpose"}:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node is not None and (node.op_type in BOUNDED or _within_one(node))


def _within_one(node: ir.Node) -> bool:
    """Whether a node is a Clip to a range within -1 and 1."""
    if node.op_type != "Clip" or len(node.inputs) < 3:
        return False
    bounds = [constant(value) for value in node.inputs[1:3]]
    return all(
        bound is not None and bound.size == 1 and abs(float(bound.reshape(()))) <= 1 for bound in bounds
    )


def _same_axes(before: Sequence[int], after: Sequence[int]) -> dict[int, int]:
    """Axes that a view leaves as they are: of the same length, with as many values in front of them."""
    ends = {(math.prod(after[:axis]), size): axis for axis, size in enumerate(after) if size != 1}
    found = {
        axis: ends.get((math.prod(before[:axis]), size)) for axis, size in enumerate(before) if size != 1
    }
    return {axis: other for axis, other in found.items() if other is not None}


def _parts_of(leaf: _Leaf, index: int, name: str, shape: Sequence[int], seen: Sequence[Array]) -> list[Part]:
    spans = tuple(span for span in leaf.spans if (span[1], span[2]) != (0, shape[span[0]]))
    region = tuple((axis, slice(start, stop)) for axis, start, stop in spans)
    sizes = tuple((axis, shape[axis]) for axis, _, _ in spans)
    shown = _shown(name, {axis: f"{start}:{stop}" for axis, start, stop in spans})
    whole = Part(index, shown, region, least=BOUNDED_FLOOR if leaf.bounded else 0.0, sizes=sizes)
    arrays = [array for array in map(whole.of, seen) if array is not None and array.size]
    groups = None if leaf.bounded else _scales(arrays)
    if groups is None:
        return [whole]
    axis, members = groups
    offset = next((start for at, start, _ in spans if at == axis), 0)
    labels = {at: f"{start}:{stop}" for at, start, stop in spans if at != axis}
    return [
        Part(
            index,
            _shown(name, labels | {axis: _ranges([offset + i for i in each])}),
            (*region, (axis, tuple(each))),
            sizes=sizes
            if any(at == axis for at, _ in sizes)
            else (*sizes, (axis, shape[axis] if axis < len(shape) else arrays[0].shape[axis])),
        )
        for each in members
    ]


def _scales(arrays: Sequence[Array]) -> tuple[int, list[list[int]]] | None:
    """An axis whose indices differ in scale, and its groups of indices; each half of the samples has to show the same groups."""
    if len(arrays) < LEAST_SAMPLES or arrays[0].dtype.kind != "f":
        return None
    for axis in reversed(range(arrays[0].ndim)):
        lengths = {array.shape[axis] if array.ndim == arrays[0].ndim else -1 for array in arrays}
        if len(lengths) > 1 or not 1 < arrays[0].shape[axis] <= MOST_INDICES:
            continue
        halves = [_groups(*_sizes(arrays[start::2], axis)) for start in (0, 1)]
        if halves[0] == halves[1] and 1 < len(halves[0]) <= MOST_GROUPS:
            return axis, halves[0]
    return None


def _sizes(arrays: Sequence[Array], axis: int) -> tuple[Array, Array]:
    """Root mean square and largest magnitude of the finite values at each index along an axis."""
    sums, counts, largest = 0.0, 0.0, 0.0
    for array in arrays:
        values = np.moveaxis(array.astype(np.float64), axis, 0).reshape(array.shape[axis], -1)
        finite = np.isfinite(values)
        values = np.abs(np.where(finite, values, 0))
        sums, counts = sums + np.square(values).sum(1), counts + finite.sum(1)
        largest = np.maximum(largest, values.max(1, initial=0.0))
    return np.asarray(np.sqrt(sums / np.maximum(counts, 1))), np.asarray(largest)


def _groups(means: Array, largest: Array) -> list[list[int]]:
    """Indices by their scale, single linkage; those that hold nothing belong to the largest."""
    held = np.flatnonzero(largest > NOTHING * largest.max(initial=0.0))
    if not len(held):
        return [list(range(len(means)))]
    logs = np.log(means[held])
    order = np.argsort(logs, kind="stable")
    cuts = np.flatnonzero(np.diff(logs[order]) > math.log(APART)) + 1
    groups = [set(held[group].tolist()) for group in np.split(order, cuts)]
    groups[-1] |= set(range(len(means))) - set(held.tolist())
    return sorted(sorted(group) for group in groups)


def _shown(name: str, at: Mapping[int, str]) -> str:
    """A name with NumPy's notation for the indices along each axis."""
    if not at:
        return name
    return f"{name}[{', '.join(at.get(axis, ':') for axis in range(max(at) + 1))}]"


def _ranges(indices: Sequence[int]) -> str:
    """Indices as ranges, the first few of them: 0:4, 7."""
    starts = [i for k, i in enumerate(indices) if k == 0 or indices[k - 1] != i - 1]
    stops = [i for k, i in enumerate(indices) if k == len(indices) - 1 or indices[k + 1] != i + 1]
    shown = [str(a) if a == b else f"{a}:{b + 1}" for a, b in zip(starts, stops, strict=True)]
    return "+".join(shown[:3]) + ("+..." if len(shown) > 3 else "")
