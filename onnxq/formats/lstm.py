"""LSTMs with int8 weights: the runtime quantizes their inputs step by step (com.microsoft DynamicQuantizeLSTM)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import (
    MICROSOFT,
    Names,
    add_initializer,
    add_node,
    graph_of,
    input_at,
    is_constant,
    is_float,
    nodes_of,
    sizes,
    tidy,
)
from onnxq.techniques.input_split import FINE, TOP, TOP_SIGNED, Split
from onnxq.types import Array, Floats, Integers

WORTH = 1 << 15
"""Weights from which on the int8 kernel is faster: 64 hidden units that take 64 (measured under AVX2; at 256 it takes 0.3 of the time)."""
DIVIDING_OPSET = 11
"""From which on the operators exist that divide an input (CumSum, Round)."""
OPTIONAL = 8
"""Inputs that both operators share: X, W, R, B, sequence_lens, initial_h, initial_c, P."""


@dataclass(frozen=True)
class LstmForm:
    """An LSTM's weights as integers: W and R, int8 [directions, 4 hidden, K], with scales [directions, 4 hidden].

    Where the input is divided, K of W is that of its digits. Where all rows of R share a scale, those are [directions].
    """

    stored: tuple[Integers, Integers]
    scales: tuple[Floats, Floats]
    split: Split | None = None


def is_dynamic_lstm(node: ir.Node) -> bool:
    """Whether a node is an LSTM whose weights can be stored as int8."""
    if (
        node.op_type != "LSTM"
        or node.domain not in ("", "ai.onnx")
        or not any(is_float(value) for value in node.outputs)
    ):
        return False
    layout = node.attributes.get("layout")
    return all(is_constant(value) and is_float(value) for value in node.inputs[1:3]) and (
        layout is None or layout.as_int() == 0
    )


def dynamic_lstms(model: ir.Model, least: int = 0) -> list[ir.Node]:
    """The LSTMs that could have int8 weights, and have at least so many."""
    found = [node for node in nodes_of(model) if is_dynamic_lstm(node)]
    return [node for node in found if lstm_weights(node) >= least]


def lstm_weights(node: ir.Node) -> int:
    """How many weights an LSTM has."""
    return sum(math.prod(sizes(value) or ()) for value in node.inputs[1:3])


def quantize_lstms(model: ir.Model, forms: Mapping[str, LstmForm]) -> None:
    """Give the named LSTMs int8 weights, in place."""
    names = Names(model)
    for node in [node for node in nodes_of(model) if node.name in forms]:
        _replace(model, node, forms[node.name or ""], names)
        model.graph.opset_imports[MICROSOFT] = 1
    tidy(model)


def _replace(model: ir.Model, node: ir.Node, form: LstmForm, names: Names) -> None:
    inputs: list[ir.Value | None] = [input_at(node, index) for index in range(OPTIONAL)]
    scales: list[ir.Value | None] = []
    for index, stored, scale in zip((1, 2), form.stored, form.scales, strict=True):
        value = inputs[index]
        assert value is not None
        base = value.name
        packed = np.ascontiguousarray(stored.transpose(0, 2, 1))  # as the operator takes it
        inputs[index] = add_initializer(model.graph, names.fresh(f"{base}_quantized"), packed)
        scales.append(add_initializer(model.graph, names.fresh(f"{base}_scale"), scale))
        scales.append(
            add_initializer(model.graph, names.fresh(f"{base}_zero_point"), np.zeros(scale.shape, np.int8))
        )
    if form.split is not None:
        inputs[0] = _divided(model, node, form.split, names)
    kept = [value for value in node.attributes.values() if value.name != "layout"]
    new = ir.Node(
        MICROSOFT,
        "DynamicQuantizeLSTM",
        [*inputs, *scales],
        kept,
        num_outputs=len(node.outputs),
        name=node.name,
    )
    for old, fresh in zip(node.outputs, new.outputs, strict=True):
        fresh.shape, fresh.type = old.shape, old.type
    outputs = [output.name for output in node.outputs]
    ir.convenience.replace_nodes_and_values(graph_of(node), node, [node], [new], node.outputs, new.outputs)
    for name, fresh in zip(outputs, new.outputs, strict=True):
        fresh.name = name


def _divided(model: ir.Model, node: ir.Node, split: Split, names: Names) -> ir.Value:
    """An LSTM's input [seq, batch, K] as the digits of its columns, [seq, batch, 2 K (+ 2)]."""
    x = node.inputs[0]
    assert x is not None
    graph, base = graph_of(node), f"{node.name}_input"

    def made(op_type: str, *inputs: ir.Value, what: str, **attributes: int) -> ir.Value:
        name = names.fresh(f"{base}_{what}")
        output = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT))
        add_node(graph, op_type, list(inputs), [output], name=name, domain="", **attributes)
        return output

    def held(array: Array | float | list[int], what: str, dtype: type = np.float32) -> ir.Value:
        return add_initializer(model.graph, names.fresh(f"{base}_{what}"), np.asarray(array, dtype))

    scaled = made("Mul", x, held(1 / split.steps, "columns"), what="scaled")
    size = made("Abs", scaled, what="size") if split.signed else scaled
    largest = made("ReduceMax", size, what="largest", keepdims=0)
    positive = made("Max", largest, held(float(np.finfo(np.float32).tiny), "least"), what="positive")
    unit = made("Mul", positive, held(1 / (TOP_SIGNED if split.signed else TOP), "steps"), what="unit")
    steps = made("Div", scaled, unit, what="in_steps")
    first = made("Floor", steps, what="first")
    rest = made("Mul", made("Sub", steps, first, what="rest"), held(FINE, "parts"), what="in_parts")
    total = made("CumSum", rest, held(0, "time", np.int64), what="total")
    before = made("Round", made("Sub", total, rest, what="before"), what="given")
    second = made("Sub", total, before, what="second")  # which the runtime rounds
    even = held(np.arange(len(split.steps)) % 2 == 0, "even", np.bool_)
    turns = [made("Where", even, a, b, what="turn") for a, b in ((first, second), (second, first))]
    columns = made("Concat", *turns, what="digits", axis=2)
    if split.signed:
        for bound in (np.floor(-TOP_SIGNED), np.floor(TOP_SIGNED)):
            columns = made(
                "Pad", columns, held([0, 0, 0, 0, 0, 1], "one", np.int64), held(bound, "bound"), what="held"
            )
    return made("Mul", columns, unit, what="divided")
