"""Rules of operators that move, select or repeat values."""

import numpy as np
import onnx_ir as ir

from onnxq.finetuning.rules.rule import Gradients, axis_of, first, operand
from onnxq.finetuning.tape import NoRuleError, Tape, integers
from onnxq.graph.edit import attribute, permutation
from onnxq.types import Array

ADDING_OPSET = 16
"""First opset whose ScatterElements and ScatterND can add."""


def _axis(node: ir.Node, rank: int, default: int = 0) -> int:
    return axis_of(int(attribute(node, "axis", default)), rank)  # type: ignore[arg-type]


def reshaped(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Reshape, Flatten, Squeeze and Unsqueeze."""
    return [tape.reshape(first(gradients), tape.shape(operand(node)))]


def transpose(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Transpose."""
    rank = len(tape.shape(operand(node)))
    order = permutation(node) or tuple(reversed(range(rank)))
    return [tape.transpose(first(gradients), [order.index(axis) for axis in range(rank)])]


def concat(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Concat: a part of the gradient for each operand."""
    axis, start, result = _axis(node, len(tape.shape(operand(node)))), 0, []
    for i, value in enumerate(node.inputs):
        stop = start + tape.shape(value)[axis]
        wanted = tape.wants(node, i) and stop > start
        result.append(tape.slice(first(gradients), [start], [stop], [axis]) if wanted else None)
        start = stop
    return result


def split(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Split: the parts together, zeros for those without a gradient."""
    parts = [
        tape.zeros(tape.shape(value)) if gradient is None else gradient
        for value, gradient in zip(node.outputs, gradients, strict=True)
        if tape.shape(value)
    ]
    return [tape.op("Concat", *parts, axis=_axis(node, len(tape.shape(operand(node)))))]


def sliced(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Slice: zeros around the gradient; along axes with steps, values back in their places."""
    before = tape.shape(operand(node))
    starts, stops = tape.numbers(node, 1, "starts"), tape.numbers(node, 2, "ends")
    assert starts is not None
    assert stops is not None
    axes = tape.numbers(node, 3, "axes") or list(range(len(starts)))
    steps = tape.numbers(node, 4) or [1] * len(starts)
    gradient, front, back = first(gradients), [0] * len(before), [0] * len(before)
    for start, stop, number, step in zip(starts, stops, axes, steps, strict=True):
        axis = axis_of(number, len(before))
        size = before[axis]
        kept = np.arange(size)[slice(start, None if step < 0 and stop < -size else stop, step)]
        if step == 1:
            front[axis], back[axis] = int(kept[0]), size - 1 - int(kept[-1])
        else:
            gradient = tape.untake(gradient, kept, size, axis, len(before))
    if any(front) or any(back):
        gradient = tape.op("Pad", gradient, integers([*front, *back]))
    return [gradient]


def pad(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Pad in every mode."""
    before, mode = tape.shape(operand(node)), str(attribute(node, "mode", "constant"))
    given, chosen = tape.numbers(node, 1, "pads"), tape.numbers(node, 3)
    assert given is not None
    axes = list(range(len(before))) if chosen is None else [axis_of(each, len(before)) for each in chosen]
    gradient = first(gradients)
    for position, axis in enumerate(axes):
        front, back = given[position], given[position + len(axes)]
        if (front, back) == (0, 0):
            continue
        indices = np.arange(before[axis])
        if mode == "constant" or min(front, back) < 0:
            if mode != "constant":
                raise NoRuleError(f"mode {mode} with negative pads")
            indices = indices[max(-front, 0) : len(indices) - max(-back, 0)]
            indices = np.pad(indices, (max(front, 0), max(back, 0)), constant_values=-1)
        else:
            indices = np.pad(indices, (front, back), mode=mode)  # type: ignore[call-overload]
        gradient = _untaken(tape, gradient, indices, before[axis], axis, len(before))
    return [gradient]


def _untaken(tape: Tape, gradient: ir.Value, indices: Array, size: int, axis: int, rank: int) -> ir.Value:
    """`Tape.untake`, as a slice where the values come from x in one piece and as a whole."""
    held = np.flatnonzero(indices >= 0)
    if len(held) == size and np.array_equal(indices[held], np.arange(size)):
        return tape.slice(gradient, [int(held[0])], [int(held[-1]) + 1], [axis])
    return tape.untake(gradient, indices, size, axis, rank)


def gather(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Gather: back in their places, or a product with the one-hot matrix of the indices."""
    before, gradient = tape.shape(operand(node)), first(gradients)
    rank = len(before)
    axis = _axis(node, rank)
    chosen = tape.shape(node.inputs[1])
    count = int(np.prod(chosen))
    flat = [*before[:axis], count, *before[axis + 1 :]]
    if chosen != (count,):
        gradient = tape.reshape(gradient, flat)
    try:
        indices = tape.value(node, 1)
    except NoRuleError:
        indices = None
    if indices is not None:
        known = indices.reshape(-1).astype(np.int64)
        return [
            _untaken(
                tape, gradient, np.where(known < 0, known + before[axis], known), before[axis], axis, rank
            )
        ]
    depth = np.array(before[axis], np.int64)
    hot = tape.op("OneHot", tape.reshape(operand(node, 1), [-1]), depth, np.array([0, 1], np.float32), axis=0)
    order = [*(each for each in range(rank) if each != axis)]
    rows = tape.reshape(tape.transpose(gradient, [axis, *order]), [count, -1])
    result = tape.reshape(tape.op("MatMul", hot, rows), [before[axis], *(before[each] for each in order)])
    return [tape.transpose(result, [[axis, *order].index(each) for each in range(rank)])]


def gather_elements(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of GatherElements: gradients are added where they came from."""
    return [
        _scattered(
            tape, node, operand(node, 1), first(gradients), _axis(node, len(tape.shape(operand(node))))
        )
    ]


def _scattered(tape: Tape, node: ir.Node, indices: ir.Value, gradient: ir.Value, axis: int) -> ir.Value:
    if tape.opset < ADDING_OPSET:
        raise NoRuleError(f"the model's opset is {tape.opset}, and the rule needs {ADDING_OPSET}")
    zeros = tape.zeros(tape.shape(operand(node)))
    reduction = ir.AttrString("reduction", "add")
    result = tape.op("ScatterElements", zeros, indices, gradient, axis=axis)
    producer = result.producer()
    assert producer is not None
    producer.attributes.add(reduction)
    return result


def gather_nd(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of GatherND without batch dimensions."""
    if tape.opset < ADDING_OPSET or attribute(node, "batch_dims", 0):
        raise NoRuleError(f"it needs opset {ADDING_OPSET} and no batch_dims")
    result = tape.op("ScatterND", tape.zeros(tape.shape(operand(node))), operand(node, 1), first(gradients))
    producer = result.producer()
    assert producer is not None
    producer.attributes.add(ir.AttrString("reduction", "add"))
    return [result]


def top_k(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of TopK: the indices are unique along the axis, so nothing has to be added."""
    rank = len(tape.shape(operand(node)))
    zeros = tape.zeros(tape.shape(operand(node)))
    return [tape.op("ScatterElements", zeros, node.outputs[1], first(gradients), axis=_axis(node, rank, -1))]


def scatter_elements(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of ScatterElements that replaces values."""
    if attribute(node, "reduction", "none") != "none":
        raise NoRuleError(f"reduction {attribute(node, 'reduction', 'none')}")
    g, indices = first(gradients), operand(node, 1)
    axis = _axis(node, len(tape.shape(operand(node))))
    data = (
        tape.op("ScatterElements", g, indices, tape.zeros(tape.shape(node.inputs[2])), axis=axis)
        if tape.wants(node, 0)
        else None
    )
    return [data, None, tape.op("GatherElements", g, indices, axis=axis) if tape.wants(node, 2) else None]


def scatter_nd(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of ScatterND that replaces values."""
    if attribute(node, "reduction", "none") != "none":
        raise NoRuleError(f"reduction {attribute(node, 'reduction', 'none')}")
    g, indices = first(gradients), operand(node, 1)
    zeros = tape.zeros(tape.shape(node.inputs[2])) if tape.wants(node, 0) else None
    return [
        None if zeros is None else tape.op("ScatterND", g, indices, zeros),
        None,
        tape.op("GatherND", g, indices) if tape.wants(node, 2) else None,
    ]


def expand(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Expand."""
    return [tape.unbroadcast(first(gradients), tape.shape(node.outputs[0]), tape.shape(operand(node)))]


def tile(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Tile: sums over the repetitions."""
    before, after = tape.shape(operand(node)), tape.shape(node.outputs[0])
    sizes = [part for own, all_ in zip(before, after, strict=True) for part in (all_ // max(own, 1), own)]
    split_up = tape.reshape(first(gradients), sizes)
    return [tape.sum(split_up, list(range(0, len(sizes), 2)), keep=False)]


def depth_to_space(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of DepthToSpace: SpaceToDepth, or for the order CRD a transposition."""
    size = int(attribute(node, "blocksize", 1))  # type: ignore[arg-type]
    if attribute(node, "mode", "DCR") == "DCR":
        return [tape.op("SpaceToDepth", first(gradients), blocksize=size)]
    batch, depth, height, width = tape.shape(operand(node))
    apart = tape.reshape(first(gradients), [batch, depth // size**2, height, size, width, size])
    return [tape.reshape(tape.transpose(apart, [0, 1, 3, 5, 2, 4]), [batch, depth, height, width])]


def space_to_depth(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of SpaceToDepth."""
    size = int(attribute(node, "blocksize", 1))  # type: ignore[arg-type]
    return [tape.op("DepthToSpace", first(gradients), blocksize=size)]


def trilu(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Trilu."""
    offset = node.inputs[1] if len(node.inputs) > 1 else None
    return [tape.op("Trilu", first(gradients), offset, upper=int(attribute(node, "upper", 1)))]  # type: ignore[arg-type]


def cumulative_sum(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of CumSum: the sum in the other direction."""
    exclusive, reverse = (int(attribute(node, name, 0)) for name in ("exclusive", "reverse"))  # type: ignore[arg-type]
    back = tape.op("CumSum", first(gradients), operand(node, 1), exclusive=exclusive, reverse=1 - reverse)
    return [back]
