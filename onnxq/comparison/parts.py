"""Parts of an output: kinds of values in one tensor, each compared with its own signal.

A detector's output often holds box coordinates of hundreds beside scores of at most 1; one ratio of
noise to signal over the tensor says nothing about the scores. Parts are found in two ways: from the
graph, where a Concat joins them, and from the values, where indices along an axis differ in scale.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import attribute, constant, permutation
from onnxq.graph.macs import ShapeByName
from onnxq.types import Array

ELEMENTWISE = frozenset({
    "Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Log", "Mul", "Neg", "PRelu", "Pow", "Relu", "Sigmoid", "Softmax", "Softplus",
    "Sqrt", "Sub", "Tanh",
})  # fmt: skip
"""Operators that keep each value in its place; they are followed to the operand of the output's shape."""
BOUNDED = frozenset({"Sigmoid", "HardSigmoid", "Softmax", "Tanh"})
"""Operators whose values have a natural unit: at most 1."""
SCALING = frozenset({"Add", "Div", "Exp", "Log", "Mul", "Pow", "PRelu", "Softplus", "Sqrt", "Sub"})
"""Operators whose results a bound of 1 does not cover, except a product of bounded values."""
CUTS = frozenset({"Slice", "Split"})
VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
MOST_OPERANDS, MOST_GROUPS = 16, 8
"""Operands of a Concat, and groups of an axis, beyond which they are many values of one kind."""
MOST_INDICES = 512
"""Longest axis whose indices are compared."""
SCALE_GAP = 4.0
"""Least factor between the root mean squares of neighbouring groups."""
LEAST_SAMPLES = 4
PIECE = 1 << 20
"""Values that are converted to double precision at a time."""
ABSOLUTE_FLOOR = 1e-6
"""Root mean square below which values count as zero."""
NEGLIGIBLE = 3e-4
"""Indices are empty, and no kind of their own, below this share of the largest value of all."""
BOUNDED_FLOOR = 0.1
"""Least signal per sample of values of at most 1.

It is that of one score of 0.3, below which neither detectors nor classifiers decide for anything.
"""


@dataclass(frozen=True)
class Part:
    """Values that are compared together.

    value    index of the observed value
    name     as shown, for example output0[:, 4:22]
    region   (axis, slice or indices) pairs, applied in turn; () is the whole value
    floor    least mean square that counts as their signal
    least    least sum of squares per sample, likewise
    sizes    (axis, length) pairs that a value must have for the region to apply
    """

    value: int
    name: str
    region: tuple[tuple[int, slice | tuple[int, ...]], ...] = ()
    floor: float = ABSOLUTE_FLOOR**2
    least: float = 0.0
    sizes: tuple[tuple[int, int], ...] = ()

    def of(self, array: Array) -> Array | None:
        """Return the part's values of an observed value, or None where its shape is another."""
        if any(axis >= array.ndim or array.shape[axis] != length for axis, length in self.sizes):
            return None
        for axis, indices in self.region:
            chosen = indices if isinstance(indices, slice) else list(indices)
            array = array[(slice(None),) * axis + (chosen,)]
        return array


@dataclass(frozen=True)
class _Leaf:
    """Values that come from one operand of each Concat behind an output.

    spans    (axis, start, stop) in the output
    bounded  whether they are at most 1: no operator in SCALING follows one in BOUNDED
    scaled   whether an operator in SCALING lies between here and the output
    """

    spans: tuple[tuple[int, int, int], ...] = ()
    bounded: bool = False
    scaled: bool = False


@dataclass(frozen=True)
class Seen:
    """A value for some samples.

    shapes  by sample
    array   gives the value of a sample; it may be read from a file
    """

    shapes: Sequence[tuple[int, ...]]
    array: Callable[[int], Array]


def find_parts(value: ir.Value, index: int, name: str, shapes: ShapeByName, seen: Seen) -> list[Part]:
    """Return the parts of an observed value.

    Args:
        value: in the float model.
        index: of the value among those observed.
        name: of the output, as shown.
        shapes: static shapes of the float model's values.
        seen: the value itself for some samples.
    """
    shape = shapes.get(value.name or "")
    ranks = {len(each) for each in seen.shapes}
    if shape is None or ranks - {len(shape)}:
        shape = list(seen.shapes[0]) if len(ranks) == 1 else []
        leaves = {_Leaf(): None}
    else:
        leaves = dict.fromkeys(_leaves(value, [(axis, 0) for axis in range(len(shape))], _Leaf(), shapes))
    fixed = {axis for axis, size in enumerate(shape) if all(each[axis] == size for each in seen.shapes)}
    leaves = dict.fromkeys(
        replace(leaf, spans=tuple(span for span in leaf.spans if span[0] in fixed)) for leaf in leaves
    )
    return [part for leaf in leaves for part in _parts_of(leaf, index, name, shape, seen)]


def _leaves(
    value: ir.Value, axes: list[tuple[int, int] | None], leaf: _Leaf, shapes: ShapeByName
) -> Iterator[_Leaf]:
    """Follow a value back to the Concats that it comes from.

    `axes` gives, for each axis of the value, the axis of the output and the start there, or None.
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
        (each for each in node.inputs if each is not None and _passes_on(node, each, shape, shapes)), None
    )
    if source is None:
        yield leaf
        return
    yield from _leaves(source, _axes_before(node, axes, shapes[source.name or ""], shape), leaf, shapes)


def _axes_before(
    node: ir.Node, axes: list[tuple[int, int] | None], before: Sequence[int], after: Sequence[int]
) -> list[tuple[int, int] | None]:
    """Return `axes` (see `_leaves`) for the node's input of shape `before`, from those for its result."""
    if node.op_type == "Transpose":
        order = permutation(node) or tuple(reversed(range(len(after))))
        mapped: list[tuple[int, int] | None] = [None] * len(after)
        for at, origin in enumerate(order):
            mapped[origin] = axes[at]
        return mapped
    if node.op_type in VIEWS:
        same = _same_axes(before, after)
        return [axes[same[axis]] if axis in same else None for axis in range(len(before))]
    if node.op_type in CUTS:
        return [place if before[axis] == after[axis] else None for axis, place in enumerate(axes)]
    return axes


def _passes_on(node: ir.Node, source: ir.Value, shape: Sequence[int], shapes: ShapeByName) -> bool:
    """Check that a node's values are those of an input, each in its place or moved as by a view."""
    before = shapes.get(source.name or "")
    if before is None or constant(source) is not None:
        return False
    if node.op_type == "Transpose" or (node.op_type in VIEWS | CUTS and source is node.inputs[0]):
        steps = constant(node.inputs[4]) if node.op_type == "Slice" and len(node.inputs) > 4 else None
        return steps is None or bool((steps > 0).all())
    return node.op_type in ELEMENTWISE and list(before) == list(shape)


def _operands(
    node: ir.Node, axes: list[tuple[int, int] | None], leaf: _Leaf, shapes: ShapeByName
) -> Iterator[_Leaf]:
    """Yield the leaves of a Concat's operands.

    The Concat itself is the leaf where its axis is not one of the output's, or where it has many operands.
    """
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
    """Check that a value comes from an operator of values of at most 1, perhaps through views."""
    node = value.producer()
    while node is not None and node.op_type in VIEWS | CUTS | {"Transpose"}:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node is not None and (node.op_type in BOUNDED or _within_one(node))


def _within_one(node: ir.Node) -> bool:
    """Check that a node is a Clip to a range within -1 and 1."""
    if node.op_type != "Clip" or len(node.inputs) < 3:
        return False
    bounds = [constant(value) for value in node.inputs[1:3]]
    return all(
        bound is not None and bound.size == 1 and abs(float(bound.reshape(()))) <= 1 for bound in bounds
    )


def _same_axes(before: Sequence[int], after: Sequence[int]) -> dict[int, int]:
    """Return the axes that a view keeps: the same length, and the same number of values in front."""
    ends = {(math.prod(after[:axis]), size): axis for axis, size in enumerate(after) if size != 1}
    found = {
        axis: ends.get((math.prod(before[:axis]), size)) for axis, size in enumerate(before) if size != 1
    }
    return {axis: other for axis, other in found.items() if other is not None}


def _parts_of(leaf: _Leaf, index: int, name: str, shape: Sequence[int], seen: Seen) -> list[Part]:
    """Return the parts of a leaf: one, or one for each group of indices of similar scale."""
    spans = tuple(span for span in leaf.spans if (span[1], span[2]) != (0, shape[span[0]]))
    region = tuple((axis, slice(start, stop)) for axis, start, stop in spans)
    sizes = tuple((axis, shape[axis]) for axis, _, _ in spans)
    shown = _label(name, {axis: f"{start}:{stop}" for axis, start, stop in spans})
    whole = Part(index, shown, region, least=BOUNDED_FLOOR if leaf.bounded else 0.0, sizes=sizes)
    groups = None if leaf.bounded else _scales(whole, seen)
    if groups is None:
        return [whole]
    axis, length, members = groups
    offset = next((start for at, start, _ in spans if at == axis), 0)
    labels = {at: f"{start}:{stop}" for at, start, stop in spans if at != axis}
    return [
        Part(
            index,
            _label(name, labels | {axis: _ranges([offset + i for i in each])}),
            (*region, (axis, tuple(each))),
            sizes=sizes
            if any(at == axis for at, _ in sizes)
            else (*sizes, (axis, shape[axis] if axis < len(shape) else length)),
        )
        for each in members
    ]


def _scales(part: Part, seen: Seen) -> tuple[int, int, list[list[int]]] | None:
    """Return an axis whose indices differ in scale, its length and its groups; None where there is none.

    Each half of the samples has to show the same groups.
    """
    if len(seen.shapes) < LEAST_SAMPLES:
        return None
    arrays = map(part.of, map(seen.array, range(len(seen.shapes))))
    found = [_Sizes.of(array) for array in arrays if array is not None and array.size]
    if len(found) < LEAST_SAMPLES:
        return None
    for axis in sorted(found[0].by_axis, reverse=True):
        length = found[0].shape[axis]
        if any(len(each.shape) != len(found[0].shape) or each.shape[axis] != length for each in found):
            continue
        halves = [_groups(*_means([each.by_axis[axis] for each in found[start::2]])) for start in (0, 1)]
        if halves[0] == halves[1] and 1 < len(halves[0]) <= MOST_GROUPS:
            return axis, length, halves[0]
    return None


@dataclass(frozen=True)
class _Sizes:
    """Size of one sample's finite values along each axis of a few indices.

    by_axis  sum of squares, number and largest magnitude at each index
    """

    shape: tuple[int, ...]
    by_axis: dict[int, tuple[Array, Array, Array]]

    @staticmethod
    def of(array: Array) -> "_Sizes":
        axes = [axis for axis, length in enumerate(array.shape) if 1 < length <= MOST_INDICES]
        return _Sizes(array.shape, {axis: _sizes(array, axis) for axis in axes})


def _sizes(array: Array, axis: int) -> tuple[Array, Array, Array]:
    """Return sum of squares, number and largest magnitude of the finite values at each index of an axis."""
    rows = np.moveaxis(array, axis, 0)
    together = max(1, PIECE * len(rows) // array.size)
    pieces = []
    for start in range(0, len(rows), together):  # double precision takes memory
        piece = rows[start : start + together]
        values = piece.astype(np.float64).reshape(len(piece), -1)
        finite = np.isfinite(values)
        values = np.abs(np.where(finite, values, 0))
        pieces.append((np.square(values).sum(1), finite.sum(1), values.max(1, initial=0.0)))
    squares, counts, largest = (np.concatenate(each) for each in zip(*pieces, strict=True))
    return squares, counts, largest


def _means(sizes: Sequence[tuple[Array, Array, Array]]) -> tuple[Array, Array]:
    """Return root mean square and largest magnitude at each index, over samples."""
    squares, counts, largest = (np.array(each) for each in zip(*sizes, strict=True))
    return np.sqrt(np.add.reduce(squares) / np.maximum(np.add.reduce(counts), 1)), largest.max(axis=0)


def _groups(means: Array, largest: Array) -> list[list[int]]:
    """Group indices by their scale (single linkage); empty ones belong to the group of largest scale."""
    held = np.flatnonzero(largest > NEGLIGIBLE * largest.max(initial=0.0))
    if not len(held):
        return [list(range(len(means)))]
    logs = np.log(means[held])
    order = np.argsort(logs, kind="stable")
    cuts = np.flatnonzero(np.diff(logs[order]) > math.log(SCALE_GAP)) + 1
    groups = [set(held[group].tolist()) for group in np.split(order, cuts)]
    groups[-1] |= set(range(len(means))) - set(held.tolist())
    return sorted(sorted(group) for group in groups)


def _label(name: str, at: Mapping[int, str]) -> str:
    """Return a name with NumPy's notation for the indices along each axis."""
    if not at:
        return name
    return f"{name}[{', '.join(at.get(axis, ':') for axis in range(max(at) + 1))}]"


def _ranges(indices: Sequence[int]) -> str:
    """Return indices as text, their first ranges: 0:4+7."""
    starts = [i for k, i in enumerate(indices) if k == 0 or indices[k - 1] != i - 1]
    stops = [i for k, i in enumerate(indices) if k == len(indices) - 1 or indices[k + 1] != i + 1]
    shown = [str(a) if a == b else f"{a}:{b + 1}" for a, b in zip(starts, stops, strict=True)]
    return "+".join(shown[:3]) + ("+..." if len(shown) > 3 else "")
