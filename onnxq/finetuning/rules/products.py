"""Rules of matrix products and convolutions."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.finetuning.rules.rule import Gradients, first, operand
from onnxq.finetuning.tape import NoRuleError, Tape, integers
from onnxq.graph.edit import attribute, factor, input_at


def matmul(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of MatMul: dA = dY B^T, dB = A^T dY, summed over repeated batch axes."""
    a, b, g = operand(node), operand(node, 1), first(gradients)
    a_shape, b_shape, y_shape = tape.shape(a), tape.shape(b), tape.shape(node.outputs[0])
    # vectors become matrices
    rows, columns = (
        (1, *a_shape) if len(a_shape) == 1 else a_shape,
        (*b_shape, 1) if len(b_shape) == 1 else b_shape,
    )
    if rows != a_shape:
        a = tape.reshape(a, rows)
    if columns != b_shape:
        b = tape.reshape(b, columns)
    whole = (*np.broadcast_shapes(rows[:-2], columns[:-2]), rows[-2], columns[-1])
    if whole != y_shape:
        g = tape.reshape(g, whole)
    result: list[ir.Value | None] = [None, None]
    if tape.wants(node, 0):
        found = tape.op("MatMul", g, tape.transpose(b, _swapped(len(columns))))
        found = tape.unbroadcast(found, (*whole[:-2], *rows[-2:]), rows)
        result[0] = tape.reshape(found, a_shape) if rows != a_shape else found
    if tape.wants(node, 1):
        if len(columns) == 2:
            flat = tape.reshape(a, [-1, rows[-1]])
            found = tape.op("Gemm", flat, tape.reshape(g, [-1, whole[-1]]), transA=1)
        else:
            found = tape.op("MatMul", tape.transpose(a, _swapped(len(rows))), g)
            found = tape.unbroadcast(found, (*whole[:-2], *columns[-2:]), columns)
        result[1] = tape.reshape(found, b_shape) if columns != b_shape else found
    return result


def _swapped(rank: int) -> list[int]:
    return [*range(rank - 2), rank - 1, rank - 2]


def gemm(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Gemm: Y = alpha A' B' + beta C, where ' may transpose."""
    a, b, g = operand(node), operand(node, 1), first(gradients)
    alpha, beta = factor(node, "alpha", 1.0), factor(node, "beta", 1.0)
    ta, tb = (int(attribute(node, name, 0)) for name in ("transA", "transB"))  # type: ignore[arg-type]
    result: list[ir.Value | None] = [None, None, None]
    if tape.wants(node, 0):
        pair, how = ((b, g), (tb, 1)) if ta else ((g, b), (0, 1 - tb))
        result[0] = tape.op("Gemm", *pair, alpha=alpha, transA=how[0], transB=how[1])
    if tape.wants(node, 1):
        pair, how = ((g, a), (1, ta)) if tb else ((a, g), (1 - ta, 0))
        result[1] = tape.op("Gemm", *pair, alpha=alpha, transA=how[0], transB=how[1])
    if tape.wants(node, 2):
        back = tape.unbroadcast(g, tape.shape(node.outputs[0]), tape.shape(input_at(node, 2)))
        result[2] = back if beta == 1 else tape.op("Mul", back, beta)
    return result


def einsum(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Einsum: the same sum with the result in the operand's place."""
    equation = str(attribute(node, "equation", "")).replace(" ", "")
    before, arrow, after = equation.partition("->")
    terms = before.split(",")
    if not arrow or "." in equation or any(len(set(term)) < len(term) for term in (*terms, after)):
        raise NoRuleError(f"equation {equation}")
    result: list[ir.Value | None] = []
    for i, term in enumerate(terms):
        others = [operand(node, k) for k in range(len(terms)) if k != i]
        known = {letter for k, each in enumerate((*terms, after)) if k != i for letter in each}
        if not known.issuperset(term):
            raise NoRuleError(f"equation {equation}: it sums over an axis of one operand")
        text = ",".join([after, *(each for k, each in enumerate(terms) if k != i)]) + "->" + term
        result.append(
            _with_text(tape.op("Einsum", first(gradients), *others), "equation", text)
            if tape.wants(node, i)
            else None
        )
    return result


def _with_text(value: ir.Value, name: str, text: str) -> ir.Value:
    producer = value.producer()
    assert producer is not None
    producer.attributes.add(ir.AttrString(name, text))
    return value


@dataclass(frozen=True)
class Geometry:
    """Geometry of a convolution, or of the convolution whose gradient a ConvTranspose computes.

    wide, narrow  shapes of its input and output
    filter        shape of its filter
    """

    wide: tuple[int, ...]
    narrow: tuple[int, ...]
    filter: tuple[int, ...]
    strides: list[int]
    dilations: list[int]
    front: list[int]
    back: list[int]
    groups: int

    @property
    def pads(self) -> list[int]:
        """The attribute `pads`."""
        return [*self.front, *self.back]

    @property
    def spatial(self) -> list[int]:
        """The axes behind batch and channels."""
        return list(range(2, len(self.filter)))

    @property
    def outside(self) -> list[int]:
        """All axes but that of the channels."""
        return [0, *self.spatial]

    @property
    def plain(self) -> bool:
        """Whether the windows move by one step and nothing is padded."""
        return set(self.strides) == {1} and not any(self.pads)


def _listed(node: ir.Node, name: str, default: list[int]) -> list[int]:
    found = attribute(node, name, default)
    return [int(each) for each in found] if isinstance(found, list) else default


def geometry(tape: Tape, node: ir.Node) -> Geometry:
    """Return the geometry of a Conv or ConvTranspose."""
    wide, narrow = tape.shape(operand(node)), tape.shape(node.outputs[0])
    if node.op_type == "ConvTranspose":
        narrow, wide = wide, narrow
    filter_ = tape.shape(operand(node, 1))
    kernel = filter_[2:]
    ones = [1] * len(kernel)
    strides, dilations = _listed(node, "strides", ones), _listed(node, "dilations", ones)
    pads = _listed(node, "pads", [0] * (2 * len(kernel)))
    front, back = pads[: len(kernel)], pads[len(kernel) :]
    mode = str(attribute(node, "auto_pad", "NOTSET"))
    if mode in ("SAME_UPPER", "SAME_LOWER") or "output_shape" in node.attributes:
        extra = _listed(node, "output_padding", [0] * len(kernel))
        sizes = zip(narrow[2:], strides, kernel, dilations, extra, wide[2:], strict=True)
        total = [max((n - 1) * s + (k - 1) * d + 1 + e - w, 0) for n, s, k, d, e, w in sizes]
        less, more = [each // 2 for each in total], [each - each // 2 for each in total]
        front, back = (less, more) if mode == "SAME_UPPER" else (more, less)
    elif mode == "VALID":
        front, back = [0] * len(kernel), [0] * len(kernel)
    groups = int(attribute(node, "group", 1))  # type: ignore[arg-type]
    return Geometry(wide, narrow, filter_, strides, dilations, front, back, groups)


def convolution(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Conv with any number of spatial axes and groups."""
    x, w, g, form = operand(node), operand(node, 1), first(gradients), geometry(tape, node)
    return [
        _wide_gradient(tape, g, w, form) if tape.wants(node, 0) else None,
        _filter_gradient(tape, x, g, form) if tape.wants(node, 1) else None,
        tape.sum(g, form.outside, keep=False) if tape.wants(node, 2) else None,
    ]


def transposed_convolution(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of ConvTranspose: a Conv, and the gradient of its filter with x and dY exchanged."""
    x, w, g, form = operand(node), operand(node, 1), first(gradients), geometry(tape, node)
    back = None
    if tape.wants(node, 0):
        back = tape.op(
            "Conv", g, w, strides=form.strides, dilations=form.dilations, pads=form.pads, group=form.groups
        )
    return [
        back,
        _filter_gradient(tape, g, x, form) if tape.wants(node, 1) else None,
        tape.sum(g, form.outside, keep=False) if tape.wants(node, 2) else None,
    ]


def _wide_gradient(tape: Tape, g: ir.Value, w: ir.Value, form: Geometry) -> ir.Value:
    """Return the gradient of a convolution's input."""
    channels, (features, share, *kernel), axes = form.wide[1], form.filter, form.spatial
    reach = [(k - 1) * d for k, d in zip(kernel, form.dilations, strict=True)]
    flipped = [r - p for r, p in zip([*reach, *reach], form.pads, strict=True)]
    if set(form.strides) == {1} and min(flipped) >= 0:
        # a convolution with the flipped filter, for which the runtime has faster kernels
        if max(kernel) > 1:
            steps, ends = integers([-1] * len(kernel)), integers([-(2**31)] * len(kernel))
            w = tape.op("Slice", w, steps, ends, integers(axes), steps)
        if form.groups == 1:
            w = tape.transpose(w, [1, 0, *axes])
        elif (features, share) != (form.groups, 1):
            apart = tape.reshape(w, [form.groups, features // form.groups, share, *kernel])
            swapped = tape.transpose(apart, [0, 2, 1, *(1 + axis for axis in axes)])
            w = tape.reshape(swapped, [channels, features // form.groups, *kernel])
        return tape.op("Conv", g, w, dilations=form.dilations, pads=flipped, group=form.groups)
    missing = [
        form.wide[2 + i]
        - ((form.narrow[2 + i] - 1) * form.strides[i] + reach[i] + 1 - form.front[i] - form.back[i])
        for i in range(len(kernel))
    ]
    return tape.op(
        "ConvTranspose", g, w, strides=form.strides, dilations=form.dilations, pads=form.pads,
        group=form.groups, output_padding=missing,
    )  # fmt: skip


def _filter_gradient(tape: Tape, x: ir.Value, g: ir.Value, form: Geometry) -> ir.Value:
    """Return the gradient of a convolution's filter.

    It is a convolution of x with dY as filter: samples and channels exchanged, strides and dilations too.
    """
    kernel, axes, groups = list(form.filter[2:]), form.spatial, form.groups
    batch, channels, *sizes = form.wide
    if groups == 1 and form.plain and set(kernel) == {1}:
        rows = tape.reshape(g, [batch, form.filter[0], -1])
        columns = tape.transpose(tape.reshape(x, [batch, channels, -1]), [0, 2, 1])
        return tape.reshape(tape.sum(tape.op("MatMul", rows, columns), [0], keep=False), form.filter)
    if groups == 1:
        images = tape.transpose(x, [1, 0, *axes])
    else:
        apart = tape.reshape(x, [batch, groups, channels // groups, *sizes])
        moved = tape.transpose(apart, [2, 1, 0, *(axis + 1 for axis in axes)])
        images = tape.reshape(moved, [channels // groups, groups * batch, *sizes])
    back = []
    for i, size in enumerate(kernel):
        needed = (size - 1) * form.dilations[i] + (form.narrow[2 + i] - 1) * form.strides[i] + 1
        back.append(max(needed - sizes[i] - form.front[i], 0))
    found = tape.op(
        "Conv", images, tape.transpose(g, [1, 0, *axes]), strides=form.dilations, dilations=form.strides,
        pads=[*form.front, *back], group=groups,
    )  # fmt: skip
    found = tape.transpose(found, [1, 0, *axes])
    return tape.slice(found, [0] * len(kernel), kernel, axes)
