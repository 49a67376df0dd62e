"""The loss: distance of the observed values from the float model's, appended to the training form."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.comparison.observation import Observation
from onnxq.comparison.parts import Part
from onnxq.finetuning.tape import AXES_OPSET, Tape
from onnxq.graph.edit import attribute
from onnxq.graph.shapes import opset_of
from onnxq.types import Array, Floats

FEATURE_SHARE = 0.3
"""Weight of inner values against that of the outputs."""


@dataclass(frozen=True)
class Point:
    """A value that is compared with the float model's.

    tap       index of its tap in the observation, or of the feature, counted on behind the taps
    axis      axis of the classes where its Softmax is compared by KL divergence; None for squared errors
    parts     kinds of values in it, with the weight of a squared error of each
    weight    weight of the KL divergence
    feature   name of the inner value in the training form that is compared; None for a tap
    """

    tap: int
    axis: int | None = None
    parts: tuple[tuple[Part, float], ...] = ()
    weight: float = 1.0
    feature: str | None = None

    def weights(self, shape: Sequence[int]) -> Array:
        """Return the weight of each squared error, or of all as a scalar, for one sample of this shape."""
        if len(self.parts) == 1 and not self.parts[0][0].region:
            return np.asarray(self.parts[0][1], np.float32)
        whole = np.zeros(shape, np.float32)
        places = np.arange(whole.size).reshape(shape)
        for part, weight in self.parts:
            chosen = part.of(places)
            if chosen is not None:
                whole.reshape(-1)[chosen.reshape(-1)] = weight
        return whole


def before_rounding(value: ir.Value) -> ir.Value:
    """Return the float32 value that a Cast rounds to half precision or double, other values as they are.

    Compared in front of the Cast, an output in half precision has gradients that do not underflow.
    """
    node, kind = value.producer(), value.dtype
    if kind is None or kind is ir.DataType.FLOAT or not kind.is_floating_point():
        return value
    if node is None or node.op_type != "Cast" or node.inputs[0] is None:
        return value
    given = node.inputs[0]
    return given if given.dtype in (None, ir.DataType.FLOAT) else value


def points_of(
    model: ir.Model, observation: Observation, targets: Sequence[Sequence[Array]], label_share: float
) -> list[Point]:
    """Return the compared values: errors relative to the signal, and KL divergence in front of a Softmax.

    Args:
        model: the float model.
        observation: its observed values.
        targets: the float model's observed values, by sample and tap.
        label_share: weight of labels against the float model, 0..1; above 0 the first float output decides
            between classes.
    """
    powers = [_power(part, targets) for part in observation.inner]
    points: list[Point] = []
    for number, tap in enumerate(observation.taps):
        value = tap.inner(model)
        kinds = {each[number].dtype for each in targets}
        if kinds != {np.dtype(np.float32)} and before_rounding(value) is value:
            continue
        if not all(each[number].size for each in targets):
            continue
        axis = _classes(model, tap.node) if tap.node is not None and not tap.selected else None
        if axis is None and label_share and not points:
            axis = -1
        # the first decision is that of the labels
        decides = axis is not None and all(point.axis is None for point in points)
        follows = 1 - label_share if decides else 1.0
        shares = [
            (part, follows / (power * len(powers)))
            for part, power in zip(observation.inner, powers, strict=True)
            if part.value == number and power > 0
        ]
        if shares and follows:
            points.append(Point(number, parts=tuple(shares)))
        if axis is not None:
            points.append(Point(number, axis))
    return points


def feature_points(features: Sequence[str], first: int, targets: Sequence[Sequence[Array]]) -> list[Point]:
    """Return inner values as compared values: errors relative to the signal, all together FEATURE_SHARE.

    Args:
        features: names of the inner values in the training form.
        first: index of the first of them in the targets.
        targets: the float model's values, by sample.
    """
    points = []
    for number, name in enumerate(features, start=first):
        whole = Part(number, name)
        weight = FEATURE_SHARE / (max(_power(whole, targets), 1e-12) * len(features))
        points.append(Point(number, parts=((whole, weight),), feature=name))
    return points


def _power(part: Part, targets: Sequence[Sequence[Array]]) -> float:
    """Return the mean sum of squares of a part over samples, zero for an empty part."""
    values = [part.of(each[part.value]) for each in targets]
    held = [array.astype(np.float64) for array in values if array is not None and array.size]
    if not held:
        return 0.0
    signal = np.mean([np.square(each[np.isfinite(each)]).sum() for each in held])
    size = np.mean([array.size for array in held])
    return float(max(signal, part.floor * size, part.least))


def _classes(model: ir.Model, name: str) -> int | None:
    """Return the axis of the Softmax of that name, None if it is no Softmax."""
    node = next((each for each in model.graph if each.name == name), None)
    if node is None or node.op_type not in ("Softmax", "LogSoftmax"):
        return None
    return int(attribute(node, "axis", -1 if opset_of(model) >= AXES_OPSET else 1))  # type: ignore[arg-type]


def append_loss(
    tape: Tape, points: Sequence[Point], values: Sequence[ir.Value], batch: int, *, finite: bool = True
) -> tuple[ir.Value, dict[ir.Value, ir.Value], list[ir.Value]]:
    """Append the loss, a mean over the batch.

    Args:
        tape: the training form.
        points: what is compared.
        values: the compared value of each point.
        batch: number of samples along axis 0 of the values, 1 where they are no batch.
        finite: whether all targets are; otherwise values that are infinite or NaN, such as masked scores,
            count nothing.

    Returns:
        The loss, the gradient of each compared value, and the inputs that take the targets.
    """
    total: ir.Value | None = None
    seeds: dict[ir.Value, ir.Value] = {}
    targets = []
    for number, (point, value) in enumerate(zip(points, values, strict=True)):
        shape = tape.shape(value)
        target = tape.add_input(f"target_{number}", ir.DataType.FLOAT, shape)
        targets.append(target)
        if point.axis is None:
            weights = point.weights(shape if batch == 1 else (1, *shape[1:])) / np.float32(batch)
            difference = tape.op("Sub", value, target)
            difference = difference if finite else _finite_or_zero(tape, difference)
            weighted = tape.op("Mul", difference, weights)
            loss, seed = tape.dot(weighted, difference), tape.op("Add", weighted, weighted)
        else:
            loss, seed = _divergence(tape, value, target, point, finite=finite)
        total = loss if total is None else tape.op("Add", total, loss)
        seeds[value] = seed if value not in seeds else tape.op("Add", seeds[value], seed)
    assert total is not None
    return total, seeds, targets


def _finite_or_zero(tape: Tape, value: ir.Value) -> ir.Value:
    """Append nodes that put zero in place of infinite values and NaN."""
    odd = tape.op("Or", tape.op("IsInf", value), tape.op("IsNaN", value))
    return tape.op("Where", odd, np.zeros((), np.float32), value)


def _divergence(
    tape: Tape, value: ir.Value, target: ir.Value, point: Point, *, finite: bool
) -> tuple[ir.Value, ir.Value]:
    """Append the KL divergence of Softmax(value) from the target, without the target's entropy.

    Returns:
        The divergence, and its gradient.
    """
    shape = tape.shape(value)
    axis = (point.axis or 0) % len(shape)
    rows, last = int(np.prod(shape)) // max(shape[axis], 1), len(shape) - 1
    # the Softmax of old opsets knows the last axis alone
    order = [*(each for each in range(len(shape)) if each != axis), axis]
    moved, back = tape.transpose(value, order), [order.index(each) for each in range(len(shape))]
    probabilities = tape.transpose(tape.op("Softmax", moved, axis=last), back)
    logarithms = tape.transpose(tape.op("LogSoftmax", moved, axis=last), back)
    logarithms = logarithms if finite else _finite_or_zero(tape, logarithms)
    loss = tape.op("Mul", tape.dot(target, logarithms), -point.weight / rows)
    return loss, tape.op("Mul", tape.op("Sub", probabilities, target), point.weight / rows)


def target_of(point: Point, target: Array, label: int | None, share: float) -> Floats:
    """Return the target of a point: the float model's value, or its Softmax with the label mixed in.

    Args:
        point: what is compared.
        target: the float model's value of one sample.
        label: class of the sample; None without one.
        share: weight of the label, 0..1.
    """
    if point.axis is None:
        return np.asarray(target, np.float32)
    shifted = target.astype(np.float64) - target.max(axis=point.axis, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities = exponentials / exponentials.sum(axis=point.axis, keepdims=True)
    if label is not None:
        hot = np.zeros_like(probabilities)
        np.moveaxis(hot, point.axis, -1)[..., label] = 1
        probabilities = (1 - share) * probabilities + share * hot
    return np.asarray(probabilities, np.float32)
