"""Layer by layer: weights that bring the output of each layer, with its quantized inputs, closest to float.

Rounding by GPTQ sees the inputs of the float model. In the quantized model the inputs of a layer carry the
noise of all layers before it, and a part of that is a linear function of the inputs. So the target of a layer
is the float model's output t. Its weights are the least squares solution W + E[(t - W x) x^T] (H + r I)^-1
with H = E[x x^T] of the quantized inputs x, rounded by GPTQ with the same H. Where the output is added to a
shortcut, the target makes up for the shortcut's error. Y. Li et al., "GPTAQ: Efficient Finetuning-Free
Quantization for Asymmetric Calibration", ICML 2025.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.calibration.moments import Kernel, LayerInput, layer_input, take_rows
from onnxq.finetuning.form import TrainingForm
from onnxq.finetuning.frontier import Frontier
from onnxq.finetuning.trained import Bias
from onnxq.finetuning.trained_weights import CELL, Weight
from onnxq.graph.edit import constant, only_use
from onnxq.graph.shapes import SEQUENCES
from onnxq.plan.plan import PlannedNode
from onnxq.plan.products import following_bias
from onnxq.runtime.progress import progress
from onnxq.techniques.saturation import kernel_order, original_order
from onnxq.types import Feeds, Floats

LEAST_SAMPLES = 8
"""Least number of samples that are run, whatever memory they need."""
MORE_ROWS = 8.0
"""Rows that are taken of a layer, as a multiple of those that rounding to 8 bits needs."""
RIDGES = 0.1, 0.3, 1.0, 3.0
"""Shares of the mean second moment that may be added to all; the best is taken.

Where the inputs say little, weights stay as they are.
"""
CHECKED = 0.25
"""Share of the rows, those of the last samples, that tell which share is best, and whether it helps."""
MOST_COLUMNS = 4096
"""Longest row of weights that is solved."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer that is reconstructed.

    node      name of its node
    weight, bias  names of their inputs in the training form; no bias is None
    input     rows of the layer's input
    output    rows of its output that belong to them
    given     name of the input in the training form
    target    name of the float model's value that the output should have
    shortcut  name of the value in the training form that is added to the output; None for none
    """

    node: str
    weight: str
    bias: str | None
    input: LayerInput
    output: LayerInput
    given: str
    target: str
    shortcut: str | None


def find_layers(form: TrainingForm) -> list[Layer]:
    """Return the layers whose weights are trained and used once, in the order of the graph.

    There are none in a graph with sequences of tensors: a `Frontier` keeps tensors alone.
    """
    graph = form.recipe.model.graph
    if any(node.op_type in SEQUENCES for node in graph):
        return []
    nodes = {node.name: node for node in form.model.graph}
    found = []
    for node in graph:
        planned = form.recipe.plan.nodes.get(node.name or "")
        copy = nodes.get(node.name)
        if planned is None or planned.row.weight != 1 or copy is None:
            continue
        rows = layer_input(node, "")
        weight = copy.inputs[1]
        if rows is None or weight is None or rows.size > MOST_COLUMNS or len(weight.uses()) != 1:
            continue
        if copy.inputs[0] is None or copy.inputs[0].producer() is None:
            continue
        if not isinstance(form.trained.get(weight.name or ""), Weight):
            continue
        found.append(_layer(form, planned, copy, rows, nodes))
    return found


def _layer(
    form: TrainingForm,
    planned: PlannedNode,
    copy: ir.Node,
    rows: LayerInput,
    nodes: Mapping[str | None, ir.Node],
) -> Layer:
    """Describe a layer: where its bias is, and what its output should be."""
    result, place = planned.node.outputs[0], following_bias(planned)
    bias = copy.inputs[planned.row.bias] if planned.row.bias is not None and len(copy.inputs) > 2 else None
    if place is not None:
        adding, index = place
        result = adding.outputs[0]
        bias = nodes[adding.name].inputs[index] if adding.name in nodes else None
    known = bias is not None and isinstance(form.trained.get(bias.name or ""), Bias)
    shortcut, follower = None, only_use(result)
    if follower is not None and follower.op_type == "Add" and follower.name in nodes:
        other = 1 - list(follower.inputs).index(result)
        value = nodes[follower.name].inputs[other]
        if value is not None and value.producer() is not None and constant(follower.inputs[other]) is None:
            shortcut, result = value.name, follower.outputs[0]
    weight = form.trained[copy.inputs[1].name or ""]  # type: ignore[union-attr]
    assert isinstance(weight, Weight)
    channels = weight.start.shape[weight.axis]
    kernel = None
    if rows.kernel is not None:
        ones = (1,) * len(rows.kernel.shape)
        kernel = Kernel(ones, ones, ones, None, "NOTSET")
    output = LayerInput("", rows.groups, channels // rows.groups, kernel)
    return Layer(
        planned.name,
        copy.inputs[1].name or "",  # type: ignore[union-attr]
        bias.name if known and bias is not None else None,
        rows,
        output,
        copy.inputs[0].name or "",  # type: ignore[union-attr]
        result.name or "",
        shortcut,
    )


def reconstructed(form: TrainingForm, feeds: Sequence[Feeds]) -> dict[str, Floats]:
    """Return trained values with reconstructed weights and biases.

    Args:
        form: the training form.
        feeds: samples.
    """
    layers, values = find_layers(form), form.start()
    if not layers:
        return values
    teacher = Frontier(form.recipe.model, feeds, quantized=False)
    student = Frontier(form.model, feeds, quantized=True)
    for layer in progress(layers, desc="reconstruct", unit="layer"):
        targets = teacher.moved(layer.node, [layer.target])
        names = [layer.given, *([layer.shortcut] if layer.shortcut is not None else [])]
        inner = student.moved(layer.node, names, form.fed(values))
        x, wanted = [], []
        for number, (target, found) in enumerate(zip(targets, inner, strict=True)):
            count = layer.input.wanted(len(feeds), MORE_ROWS)
            rows = take_rows(layer.output, target[layer.target], count, number)
            if layer.shortcut is not None:
                added = np.broadcast_to(found[layer.shortcut], target[layer.target].shape)
                rows = rows - take_rows(layer.output, added, count, number)
            wanted.append(rows)
            x.append(take_rows(layer.input, found[layer.given], count, number))
        given, outputs = np.concatenate(x), np.concatenate(wanted)
        if len(given) == len(outputs):  # a sum may have more places than the layer's output
            _solve(form, layer, given.swapaxes(0, 1), outputs.swapaxes(0, 1), values)
    return values


def sample_count(form: TrainingForm, shapes: Mapping[str, Sequence[int]], memory: int) -> int:
    """Return how many samples' values fit into memory while a graph runs from layer to layer.

    Args:
        form: the training form.
        shapes: shapes of its values for one sample.
        memory: bytes.
    """
    student = Frontier(form.model, [], quantized=True)
    live = [student.live(layer.node) for layer in find_layers(form)]
    most = max((sum(4 * math.prod(shapes.get(name, ())) for name in names) for names in live), default=1)
    return max(LEAST_SAMPLES, memory // (2 * max(most, 1)))


def _solve(form: TrainingForm, layer: Layer, x: Floats, target: Floats, values: dict[str, Floats]) -> None:
    """Replace the weight and bias of a layer in `values`, if that brings its output closer to the target.

    Args:
        form: the training form.
        layer: the layer.
        x: its inputs, [groups, rows, K].
        target: its wanted outputs, [groups, rows, channels of a group].
        values: trained values.
    """
    weight, bias = form.trained[layer.weight], form.trained.get(layer.bias or "")
    assert isinstance(weight, Weight)
    shape = weight.start.shape
    mean_x, mean_t = x.mean(1, keepdims=True), target.mean(1, keepdims=True)
    if bias is None:
        mean_x, mean_t = np.zeros_like(mean_x), np.zeros_like(mean_t)
    x, wanted = x - mean_x, target - mean_t

    def in_rows(array: Floats) -> Floats:
        return kernel_order(array, weight.axis).reshape(x.shape[0], -1, x.shape[2])

    # least squares, then rounding
    rows = least_squares(in_rows(weight.origin), x, wanted)
    if rows is None:
        return
    steps = in_rows(np.ascontiguousarray(np.broadcast_to(weight.unit, shape)))
    second = x.swapaxes(1, 2) @ x / np.float32(x.shape[1])
    integers = weight.rounded(rows, second)
    made = integers * steps
    # comparison with the weight at the start
    old = in_rows(weight.fed(values[layer.weight]))
    remaining = target - (x + mean_x) @ old.swapaxes(1, 2)
    if isinstance(bias, Bias):
        remaining = remaining - bias.fed(values[layer.bias or ""]).reshape(x.shape[0], 1, -1)
    if not np.square(wanted - x @ made.swapaxes(1, 2)).sum() < np.square(remaining).sum():
        return
    latent = np.clip(rows / steps, integers - CELL, integers + CELL).astype(np.float32)
    values[layer.weight] = original_order(latent.reshape(-1, x.shape[2]), shape, weight.axis)
    if isinstance(bias, Bias):
        shift = mean_t - mean_x @ made.swapaxes(1, 2)
        values[layer.bias or ""] = np.asarray(shift.reshape(bias.start.shape) / bias.unit, np.float32)


def least_squares(rows: Floats, x: Floats, wanted: Floats) -> Floats | None:
    """Return weights near the given ones whose products with the inputs are closest to the wanted outputs.

    Args:
        rows: [groups, channels, K].
        x: inputs, [groups, rows, K].
        wanted: outputs, [groups, rows, channels].

    Returns:
        The weights; None where no change helps on the rows that tell which ridge is best.
    """
    missing = wanted - x @ rows.swapaxes(1, 2)
    train = x.shape[1] - int(CHECKED * x.shape[1])
    best, least = None, float(np.square(missing[:, train:]).sum())
    for ridge, change in zip(RIDGES, _changes(x[:, :train], missing[:, :train], RIDGES), strict=True):
        error = float(np.square(missing[:, train:] - x[:, train:] @ change).sum())
        if error < least:
            best, least = ridge, error
    if best is None:
        return None
    (change,) = _changes(x, missing, [best])
    return np.asarray(rows + change.swapaxes(1, 2), np.float32)


def _changes(x: Floats, missing: Floats, ridges: Sequence[float]) -> Iterator[Floats]:
    """Yield the solution [groups, K, channels] of x w = missing for each ridge."""
    count, columns = np.float32(max(x.shape[1], 1)), x.shape[2]
    second = (x.swapaxes(1, 2) @ x / count).astype(np.float64)
    product = x.swapaxes(1, 2) @ missing / count
    mean = np.trace(second, axis1=1, axis2=2) / columns
    for ridge in ridges:
        ridged = second + (ridge * mean[:, None, None] + 1e-12) * np.eye(columns)
        yield np.asarray(np.linalg.solve(ridged, product), np.float32)
