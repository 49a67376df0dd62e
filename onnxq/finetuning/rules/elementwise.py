"""Rules of elementwise operators."""

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxq.finetuning.rules.rule import Gradients, Rule, first, operand
from onnxq.finetuning.tape import NoRuleError, Tape
from onnxq.graph.edit import attribute, factor

Derivative = Callable[[Tape, ir.Node, ir.Value, ir.Value, ir.Value], ir.Value]
"""Signature: tape, node, operand x, result y, gradient of y -> gradient of x."""
SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
"""Defaults of the operator Selu."""


def unary(derivative: Derivative) -> Rule:
    """Return the rule of an operator of one operand."""

    def rule(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
        return [derivative(tape, node, operand(node), node.outputs[0], first(gradients))]

    return rule


def no_gradient(_tape: Tape, _node: ir.Node, _gradients: Gradients) -> Gradients:
    """Return no gradients: the operator is constant almost everywhere."""
    return []


def passed_on(_tape: Tape, _node: ir.Node, gradients: Gradients) -> Gradients:
    """Return the gradient of the result as that of the first operand."""
    return [first(gradients)]


def cast(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Cast between float types; others do not pass gradients on."""
    value = operand(node)
    if value.dtype is None or not value.dtype.is_floating_point():
        return []
    return [tape.op("Cast", first(gradients), to=int(value.dtype))]


def _relu(t: Tape, _: ir.Node, _x: ir.Value, y: ir.Value, g: ir.Value) -> ir.Value:
    return t.where(t.op("Greater", y, 0.0), g)


def _leaky_relu(t: Tape, n: ir.Node, x: ir.Value, _: ir.Value, g: ir.Value) -> ir.Value:
    return t.where(t.op("Greater", x, 0.0), g, t.op("Mul", g, factor(n, "alpha", 0.01)))


def _thresholded_relu(t: Tape, n: ir.Node, x: ir.Value, _: ir.Value, g: ir.Value) -> ir.Value:
    return t.where(t.op("Greater", x, factor(n, "alpha", 1.0)), g)


def _exponential(alpha: float, gamma: float) -> Derivative:
    """Derive Elu and Selu: gamma * (x, or alpha * (exp(x) - 1) below zero)."""

    def derivative(t: Tape, n: ir.Node, x: ir.Value, y: ir.Value, g: ir.Value) -> ir.Value:
        a, c = factor(n, "alpha", alpha), factor(n, "gamma", gamma)
        above = t.op("Mul", g, c) if c != 1 else g
        return t.where(t.op("Greater", x, 0.0), above, t.op("Mul", g, t.op("Add", y, a * c)))

    return derivative


def _celu(t: Tape, n: ir.Node, x: ir.Value, y: ir.Value, g: ir.Value) -> ir.Value:
    alpha = factor(n, "alpha", 1.0)
    below = t.op("Mul", g, t.op("Add", t.op("Mul", y, 1 / alpha), 1.0))
    return t.where(t.op("Greater", x, 0.0), g, below)


def _hard_sigmoid(t: Tape, n: ir.Node, _: ir.Value, y: ir.Value, g: ir.Value) -> ir.Value:
    inside = t.op("And", t.op("Greater", y, 0.0), t.op("Less", y, 1.0))
    return t.where(inside, t.op("Mul", g, factor(n, "alpha", 0.2)))


def _hard_swish(t: Tape, _: ir.Node, x: ir.Value, _y: ir.Value, g: ir.Value) -> ir.Value:
    slope = t.op("Add", t.op("Mul", x, 1 / 3), 0.5)
    inside = t.where(t.op("Less", x, -3.0), 0.0, t.op("Mul", g, slope))
    return t.where(t.op("Greater", x, 3.0), g, inside)


def _sigmoid(t: Tape, _: ir.Node, _x: ir.Value, y: ir.Value, g: ir.Value) -> ir.Value:
    return t.op("Mul", g, t.op("Sub", y, t.op("Mul", y, y)))


def _tanh(t: Tape, _: ir.Node, _x: ir.Value, y: ir.Value, g: ir.Value) -> ir.Value:
    return t.op("Sub", g, t.op("Mul", g, t.op("Mul", y, y)))


def _softplus(t: Tape, _: ir.Node, x: ir.Value, _y: ir.Value, g: ir.Value) -> ir.Value:
    return t.op("Mul", g, t.op("Sigmoid", x))


def _softsign(t: Tape, _: ir.Node, x: ir.Value, _y: ir.Value, g: ir.Value) -> ir.Value:
    wide = t.op("Add", t.op("Abs", x), 1.0)
    return t.op("Div", g, t.op("Mul", wide, wide))


def _mish(t: Tape, _: ir.Node, x: ir.Value, _y: ir.Value, g: ir.Value) -> ir.Value:
    tanh = t.op("Tanh", t.op("Softplus", x))
    rest = t.op("Mul", t.op("Sub", 1.0, t.op("Mul", tanh, tanh)), t.op("Sigmoid", x))
    return t.op("Mul", g, t.op("Add", tanh, t.op("Mul", x, rest)))


def _swish(t: Tape, n: ir.Node, x: ir.Value, y: ir.Value, g: ir.Value) -> ir.Value:
    """Derive x sigmoid(a x): s + a y (1 - s)."""
    alpha = factor(n, "alpha", 1.0)
    s = t.op("Sigmoid", t.op("Mul", x, alpha))
    return t.op("Mul", g, t.op("Add", s, t.op("Mul", t.op("Mul", y, alpha), t.op("Sub", 1.0, s))))


def _exact_gelu(t: Tape, x: ir.Value, g: ir.Value) -> ir.Value:
    """Derive x Phi(x): Phi(x) + x phi(x)."""
    phi = t.op("Add", t.op("Mul", t.op("Erf", t.op("Mul", x, math.sqrt(0.5))), 0.5), 0.5)
    density = t.op("Exp", t.op("Mul", t.op("Mul", x, x), -0.5))
    bell = t.op("Mul", density, 1 / math.sqrt(2 * math.pi))
    return t.op("Mul", g, t.op("Add", phi, t.op("Mul", x, bell)))


def _tanh_gelu(t: Tape, x: ir.Value, g: ir.Value) -> ir.Value:
    """Derive 0.5 x (1 + tanh(c (x + 0.044715 x^3))), c = sqrt(2 / pi)."""
    c, square = math.sqrt(2 / math.pi), t.op("Mul", x, x)
    cubic = t.op("Mul", x, t.op("Add", t.op("Mul", square, 0.044715), 1.0))
    tanh = t.op("Tanh", t.op("Mul", cubic, c))
    inner = t.op("Add", t.op("Mul", square, 3 * 0.044715 * c), c)
    slope = t.op("Mul", t.op("Mul", x, inner), t.op("Sub", 1.0, t.op("Mul", tanh, tanh)))
    total = t.op("Add", t.op("Add", tanh, 1.0), slope)
    return t.op("Mul", g, t.op("Mul", total, 0.5))


def _fast_gelu(t: Tape, _: ir.Node, x: ir.Value, _y: ir.Value, g: ir.Value) -> ir.Value:
    return _tanh_gelu(t, x, g)


def _gelu(t: Tape, n: ir.Node, x: ir.Value, _: ir.Value, g: ir.Value) -> ir.Value:
    return (_tanh_gelu if attribute(n, "approximate", "none") == "tanh" else _exact_gelu)(t, x, g)


def _quick_gelu(t: Tape, n: ir.Node, x: ir.Value, y: ir.Value, g: ir.Value) -> ir.Value:
    alpha = factor(n, "alpha", 1.702)
    s = t.op("Sigmoid", t.op("Mul", x, alpha))
    return t.op("Mul", g, t.op("Add", s, t.op("Mul", t.op("Mul", y, alpha), t.op("Sub", 1.0, s))))


def _erf(t: Tape, _: ir.Node, x: ir.Value, _y: ir.Value, g: ir.Value) -> ir.Value:
    bell = t.op("Exp", t.op("Neg", t.op("Mul", x, x)))
    return t.op("Mul", g, t.op("Mul", bell, 2 / math.sqrt(math.pi)))


def _square_root(t: Tape, _: ir.Node, _x: ir.Value, y: ir.Value, g: ir.Value) -> ir.Value:
    return t.op("Div", t.op("Mul", g, 0.5), y)


def _clip(t: Tape, _: ir.Node, x: ir.Value, y: ir.Value, g: ir.Value) -> ir.Value:
    return t.where(t.op("Equal", x, y), g)


UNARY: dict[str, Rule] = {
    op_type: unary(derivative)
    for op_type, derivative in {
        "Abs": lambda t, _n, x, _y, g: t.op("Mul", g, t.op("Sign", x)),
        "Acos": lambda t, _n, x, _y, g: t.op("Neg", t.op("Div", g, _leg(t, x))),
        "Asin": lambda t, _n, x, _y, g: t.op("Div", g, _leg(t, x)),
        "Atan": lambda t, _n, x, _y, g: t.op("Div", g, t.op("Add", t.op("Mul", x, x), 1.0)),
        "Celu": _celu,
        "Clip": _clip,
        "Cos": lambda t, _n, x, _y, g: t.op("Neg", t.op("Mul", g, t.op("Sin", x))),
        "Elu": _exponential(1.0, 1.0),
        "Erf": _erf,
        "Exp": lambda t, _n, _x, y, g: t.op("Mul", g, y),
        "FastGelu": _fast_gelu,
        "Gelu": _gelu,
        "HardSigmoid": _hard_sigmoid,
        "HardSwish": _hard_swish,
        "LeakyRelu": _leaky_relu,
        "Log": lambda t, _n, x, _y, g: t.op("Div", g, x),
        "Mish": _mish,
        "Neg": lambda t, _n, _x, _y, g: t.op("Neg", g),
        "QuickGelu": _quick_gelu,
        "Reciprocal": lambda t, _n, _x, y, g: t.op("Neg", t.op("Mul", g, t.op("Mul", y, y))),
        "Relu": _relu,
        "Selu": _exponential(SELU_ALPHA, SELU_GAMMA),
        "Sigmoid": _sigmoid,
        "Sin": lambda t, _n, x, _y, g: t.op("Mul", g, t.op("Cos", x)),
        "Softplus": _softplus,
        "Softsign": _softsign,
        "Sqrt": _square_root,
        "Swish": _swish,
        "Tanh": _tanh,
        "ThresholdedRelu": _thresholded_relu,
    }.items()
}
"""Rules of operators of one operand."""


def _leg(t: Tape, x: ir.Value) -> ir.Value:
    """Return sqrt(1 - x^2)."""
    return t.op("Sqrt", t.op("Sub", 1.0, t.op("Mul", x, x)))


def _back(tape: Tape, node: ir.Node, index: int, gradient: ir.Value) -> ir.Value:
    """Sum a gradient of the result's shape over the axes along which an operand was repeated."""
    return tape.unbroadcast(gradient, tape.shape(node.outputs[0]), tape.shape(operand(node, index)))


def add(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Add and Sum."""
    g = first(gradients)
    return [_back(tape, node, i, g) if tape.wants(node, i) else None for i in range(len(node.inputs))]


def subtract(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Sub."""
    g = first(gradients)
    return [
        _back(tape, node, 0, g) if tape.wants(node, 0) else None,
        tape.op("Neg", _back(tape, node, 1, g)) if tape.wants(node, 1) else None,
    ]


def multiply(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Mul."""
    g = first(gradients)
    return [
        _back(tape, node, i, tape.op("Mul", g, operand(node, 1 - i))) if tape.wants(node, i) else None
        for i in (0, 1)
    ]


def divide(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Div."""
    scaled = tape.op("Div", first(gradients), operand(node, 1))
    other = tape.op("Neg", tape.op("Mul", scaled, node.outputs[0])) if tape.wants(node, 1) else None
    return [
        _back(tape, node, 0, scaled) if tape.wants(node, 0) else None,
        None if other is None else _back(tape, node, 1, other),
    ]


def power(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Pow; x must be positive for a gradient of the exponent."""
    x, exponent, g = operand(node), operand(node, 1), first(gradients)
    if exponent.dtype is not None and not exponent.dtype.is_floating_point():
        exponent = tape.op("Cast", exponent, to=int(ir.DataType.FLOAT))
    result: list[ir.Value | None] = [None, None]
    if tape.wants(node, 0):
        slope = tape.op("Mul", tape.op("Pow", x, tape.op("Sub", exponent, 1.0)), exponent)
        result[0] = _back(tape, node, 0, tape.op("Mul", g, slope))
    if tape.wants(node, 1):
        slope = tape.op("Mul", node.outputs[0], tape.op("Log", x))
        result[1] = _back(tape, node, 1, tape.op("Mul", g, slope))
    return result


def extreme(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Max and Min: the operand that equals the result."""
    g, result = first(gradients), []
    for i in range(len(node.inputs)):
        chosen = tape.op("Equal", operand(node, i), node.outputs[0]) if tape.wants(node, i) else None
        result.append(None if chosen is None else _back(tape, node, i, tape.where(chosen, g)))
    return result


def mean(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Mean."""
    return add(tape, node, [tape.op("Mul", first(gradients), 1 / len(node.inputs))])


def where(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Where."""
    g, condition = first(gradients), operand(node)
    return [
        None,
        _back(tape, node, 1, tape.where(condition, g)) if tape.wants(node, 1) else None,
        _back(tape, node, 2, tape.where(condition, 0.0, g)) if tape.wants(node, 2) else None,
    ]


def prelu(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of PRelu."""
    x, slope, g = operand(node), operand(node, 1), first(gradients)
    above = tape.op("Greater", x, 0.0)
    return [
        tape.where(above, g, tape.op("Mul", g, slope)),
        _back(tape, node, 1, tape.where(above, 0.0, tape.op("Mul", g, x))) if tape.wants(node, 1) else None,
    ]


def dropout(tape: Tape, node: ir.Node, gradients: Gradients) -> Gradients:
    """Rule of Dropout outside of training, where it passes its input on."""
    mode = tape.value(node, 2)
    if mode is not None and np.any(mode):
        raise NoRuleError("it is in training mode")
    return [first(gradients)]
