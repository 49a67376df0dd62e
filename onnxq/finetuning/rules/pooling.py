"""Rules of pooling and Resize."""

import itertools
import math

import numpy as np
import onnx_ir as ir

from onnxq.finetuning.rules.rule import Gradients, axis_of, first, operand
from onnxq.finetuning.tape import NoRuleError, Tape, integers
from onnxq.graph.edit import attribute, constant_value
from onnxq.runtime.sessions import open_session
from onnxq.types import Array


def global_average(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of GlobalAveragePool."""
    before = tape.shape(operand(node))
    share = tape.op("Mul", first(gradients), 1 / math.prod(before[2:]))
    return [tape.op("Expand", share, integers(before))]


def global_maximum(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of GlobalMaxPool; equal values share the gradient."""
    x, axes = operand(node), list(range(2, len(tape.shape(operand(node)))))
    chosen = tape.op("Cast", tape.op("Equal", x, node.outputs[0]), to=int(ir.DataType.FLOAT))
    return [tape.op("Mul", tape.op("Div", first(gradients), tape.sum(chosen, axes)), chosen)]


def _windows(tape: Tape, node: ir.Node) -> list[Array]:
    """Return, for each spatial axis, the position in x of each value of each window: [results, kernel].

    Positions in the padding are negative or beyond the size.
    """
    before, after = tape.shape(operand(node))[2:], tape.shape(node.outputs[0])[2:]
    kernel = attribute(node, "kernel_shape", [])
    assert isinstance(kernel, list)
    ones = [1] * len(kernel)
    strides, dilations = attribute(node, "strides", ones), attribute(node, "dilations", ones)
    pads = attribute(node, "pads", [0] * (2 * len(kernel)))
    assert isinstance(strides, list)
    assert isinstance(dilations, list)
    assert isinstance(pads, list)
    mode, found = attribute(node, "auto_pad", "NOTSET"), []
    for i, size in enumerate(kernel):
        front = pads[i] if mode == "NOTSET" else 0
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            total = max((after[i] - 1) * strides[i] + (size - 1) * dilations[i] + 1 - before[i], 0)
            front = total // 2 if mode == "SAME_UPPER" else total - total // 2
        starts = np.arange(after[i])[:, None] * strides[i] - front
        found.append(starts + np.arange(size)[None] * dilations[i])
    return found


def average_pool(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of AveragePool: sums over windows, axis by axis."""
    before, gradient = tape.shape(operand(node)), first(gradients)
    rank, pads = len(before), attribute(node, "pads", [0] * (2 * len(before[2:])))
    assert isinstance(pads, list)
    padded = bool(attribute(node, "count_include_pad", 0))
    for i, windows in enumerate(_windows(tape, node)):
        size = before[2 + i]
        inside = (windows >= 0) & (windows < size)
        end = size + pads[len(pads) // 2 + i]
        counted = (windows < end) if padded else inside
        matrix = np.zeros((size, len(windows)))
        for result, positions in enumerate(windows):
            matrix[positions[inside[result]], result] = 1 / max(int(np.count_nonzero(counted[result])), 1)
        gradient = tape.along(gradient, matrix, 2 + i, rank)
    return [gradient]


def max_pool(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of MaxPool, by the indices of the largest values."""
    if attribute(node, "storage_order", 0):
        raise NoRuleError("its indices run along columns")
    if len(node.outputs) < 2:
        node.resize_outputs(2)
    if not node.outputs[1].name:
        node.outputs[1].name = f"{node.outputs[0].name}_largest"
    before, indices, g = tape.shape(operand(node)), node.outputs[1], first(gradients)
    windows = _windows(tape, node)
    total = math.prod(before)
    if not any(_overlap(each) for each in windows):
        flat = [tape.reshape(each, [-1]) for each in (indices, g)]
        return [tape.reshape(tape.op("ScatterElements", tape.zeros([total]), *flat, axis=0), before)]
    # for each place in the window: the gradients of the results that it won
    base = np.arange(math.prod(before[:2])).reshape(*before[:2], *([1] * len(windows))) * math.prod(
        before[2:]
    )
    whole: ir.Value | None = None
    for place in itertools.product(*(range(each.shape[1]) for each in windows)):
        positions = np.zeros([1] * len(windows), np.int64)
        part = g
        for i, (windows_of, offset) in enumerate(zip(windows, place, strict=True)):
            along = windows_of[:, offset].reshape([-1 if k == i else 1 for k in range(len(windows))])
            positions = positions * before[2 + i] + along
        won = tape.op("Equal", tape.op("Sub", indices, base), positions[None, None].astype(np.int64))
        part = tape.where(won, g)
        for i, (windows_of, offset) in enumerate(zip(windows, place, strict=True)):
            matrix = (np.arange(before[2 + i])[:, None] == windows_of[None, :, offset]).astype(np.float32)
            part = tape.along(part, matrix, 2 + i, len(before))
        whole = part if whole is None else tape.op("Add", whole, part)
    return [whole]


def _overlap(windows: Array) -> bool:
    return len(np.unique(windows)) < windows.size


def resize(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Resize in every mode that treats the axes one by one: the transposed matrix of each axis."""
    before, after = tape.shape(operand(node)), tape.shape(node.outputs[0])
    odd = attribute(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize"
    if odd or attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NoRuleError("it crops, or keeps the aspect ratio")
    gradient = first(gradients)
    for axis, (size, new) in enumerate(zip(before, after, strict=True)):
        if size != new:
            matrix = _resizing_matrix(tape, node, axis, size, new)
            gradient = tape.along(gradient, matrix.T, axis, len(before))
    return [gradient]


def _resizing_matrix(tape: Tape, node: ir.Node, axis: int, size: int, new: int) -> Array:
    """Return the matrix [new, size] of a Resize along one axis, found by resizing unit vectors."""
    if axis == 0:
        raise NoRuleError("it resizes the batch")
    rank = len(tape.shape(operand(node)))
    listed = tape.numbers(node, -1, "axes") if "axes" in node.attributes else None
    axes = list(range(rank)) if listed is None else [axis_of(each, rank) for each in listed]
    factors = tape.value(node, 2)
    unit = np.zeros([size if each in (0, axis) else 1 for each in range(rank)], np.float32)
    np.moveaxis(unit, (0, axis), (-2, -1))[...] = np.eye(size)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(unit.shape))
    y = ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT))
    if factors is not None and factors.size:
        chosen = np.array([factors[axes.index(each)] if each == axis else 1 for each in axes], np.float32)
        constants = {"": None, "scales": constant_value(chosen, "scales")}
    else:
        sizes = np.array([new if each == axis else unit.shape[each] for each in axes], np.int64)
        constants = {"": None, " ": None, "sizes": constant_value(sizes, "sizes")}
    attributes = list(node.attributes.values())
    single = ir.Node("", "Resize", [x, *constants.values()], attributes, outputs=[y], name="resize")
    initializers = [value for value in constants.values() if value is not None]
    graph = ir.Graph([x], [y], nodes=[single], initializers=initializers, opset_imports={"": tape.opset})
    session = open_session(ir.Model(graph, ir_version=8), optimize=False, threads=1)
    found = np.asarray(session.run(None, {"x": unit})[0])
    return np.moveaxis(found, (0, axis), (-2, -1)).reshape(size, new).T
