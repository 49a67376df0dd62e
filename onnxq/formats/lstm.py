"""LSTMs with int8 weights (com.microsoft DynamicQuantizeLSTM); inputs are quantized step by step."""

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
"""Weights from which on the int8 kernel is faster: 64 inputs and hidden units.

Measured under AVX2; at 256 the kernel takes 0.3 of the float time.
"""
LONGEST_INPUT = (2**31 - 1) // (255 * 127)
"""Inputs or hidden units beyond which sums of products may not fit into int32."""
DIVIDING_OPSET = 11
"""First opset with the operators that split an input (CumSum, Round)."""
OPTIONAL = 8
"""Number of inputs that both operators share: X, W, R, B, sequence_lens, initial_h, initial_c, P."""


@dataclass(frozen=True)
class LstmForm:
    """Quantized weights of an LSTM.

    stored  W and R, int8 `[directions, 4 hidden, K]`; for a split input, K of W counts its parts
    scales  of W and R, `[directions, 4 hidden]`, or `[directions]` if all rows of R share a scale
    split   how the input is split into a coarse and a fine part, if it is
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
    if any((sizes(value) or [0])[-1] > LONGEST_INPUT for value in node.inputs[1:3]):
        return False
    return all(is_constant(value) and is_float(value) for value in node.inputs[1:3]) and (
        layout is None or layout.as_int() == 0
    )


def dynamic_lstms(model: ir.Model, least: int = 0) -> list[ir.Node]:
    """Return the LSTMs that can have int8 weights and have at least `least` weights."""
    found = [node for node in nodes_of(model) if is_dynamic_lstm(node)]
    return [node for node in found if lstm_weights(node) >= least]


def lstm_weights(node: ir.Node) -> int:
    """Return the number of weights of an LSTM."""
    return sum(math.prod(sizes(value) or ()) for value in node.inputs[1:3])


def quantize_lstms(model: ir.Model, forms: Mapping[str, LstmForm]) -> bool:
    """Give the named LSTMs int8 weights, in place; return whether there was any."""
    names = Names(model)
    chosen = [node for node in nodes_of(model) if node.name in forms]
    for node in chosen:
        _replace(model, node, forms[node.name or ""], names)
        model.graph.opset_imports[MICROSOFT] = 1
    return tidy(model) or bool(chosen)


def _replace(model: ir.Model, node: ir.Node, form: LstmForm, names: Names) -> None:
    inputs: list[ir.Value | None] = [input_at(node, index) for index in range(OPTIONAL)]
    scales: list[ir.Value | None] = []
    for index, stored, scale in zip((1, 2), form.stored, form.scales, strict=True):
        value = inputs[index]
        assert value is not None
        base = value.name
        packed = np.ascontiguousarray(stored.transpose(0, 2, 1))  # the operator's layout
        inputs[index] = add_initializer(model.graph, names.fresh(f"{base}_quantized"), packed)
        scales.append(add_initializer(model.graph, names.fresh(f"{base}_scale"), scale))
        scales.append(
            add_initializer(model.graph, names.fresh(f"{base}_zero_point"), np.zeros(scale.shape, np.int8))
        )
    if form.split is not None:
        inputs[0] = _split_input(model, node, form.split, names)
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


def _split_input(model: ir.Model, node: ir.Node, split: Split, names: Names) -> ir.Value:
    """Split an LSTM's input `[seq, batch, K]` into coarse and fine parts, `[seq, batch, 2 K (+ 2)]`."""
    x = node.inputs[0]
    assert x is not None
    graph, base = graph_of(node), f"{node.name}_input"

    def added(op_type: str, *inputs: ir.Value, part: str, **attributes: int) -> ir.Value:
        name = names.fresh(f"{base}_{part}")
        output = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT))
        add_node(graph, op_type, list(inputs), [output], name=name, domain="", **attributes)
        return output

    def fixed(array: Array | float | list[int], part: str, dtype: type = np.float32) -> ir.Value:
        return add_initializer(model.graph, names.fresh(f"{base}_{part}"), np.asarray(array, dtype))

    scaled = added("Mul", x, fixed(1 / split.steps, "columns"), part="scaled")
    size = added("Abs", scaled, part="size") if split.signed else scaled
    largest = added("ReduceMax", size, part="largest", keepdims=0)
    positive = added("Max", largest, fixed(float(np.finfo(np.float32).tiny), "least"), part="positive")
    unit = added("Mul", positive, fixed(1 / (TOP_SIGNED if split.signed else TOP), "steps"), part="unit")
    steps = added("Div", scaled, unit, part="in_steps")
    first = added("Floor", steps, part="first")
    rest = added("Mul", added("Sub", steps, first, part="rest"), fixed(FINE, "parts"), part="in_parts")
    total = added("CumSum", rest, fixed(0, "time", np.int64), part="total")
    before = added("Round", added("Sub", total, rest, part="before"), part="given")
    second = added("Sub", total, before, part="second")  # the runtime rounds it
    even = fixed(np.arange(len(split.steps)) % 2 == 0, "even", np.bool_)
    turns = [added("Where", even, a, b, part="turn") for a, b in ((first, second), (second, first))]
    columns = added("Concat", *turns, part="digits", axis=2)
    if split.signed:
        for bound in (np.floor(-TOP_SIGNED), np.floor(TOP_SIGNED)):
            columns = added(
                "Pad", columns, fixed([0, 0, 0, 0, 0, 1], "one", np.int64), fixed(bound, "bound"), part="held"
            )
    return added("Mul", columns, unit, part="divided")
