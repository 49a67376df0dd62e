"""The backward pass of a graph, appended to it as ONNX nodes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.finetuning.rules.table import rule_of
from onnxq.finetuning.tape import NoRuleError, Tape
from onnxq.graph.edit import Names, add_node, sort_nodes
from onnxq.graph.shapes import SEQUENCES
from onnxq.runtime.sessions import open_session, run
from onnxq.types import Array, Feeds

KNOWN_VALUES = 1 << 16
"""Most elements of a value whose array is kept: sizes, axes and indices."""
WITHOUT_DATA = frozenset({"Shape", "Size"})
"""Operators whose results do not depend on the data of their inputs."""


@dataclass(frozen=True)
class Measured:
    """What one run shows of the values of a main graph.

    shapes  sizes by name
    known   arrays of small values that do not depend on the data of the inputs, by name
    """

    shapes: dict[str, tuple[int, ...]]
    known: dict[str, Array]


def measure(model: ir.Model, feeds: Feeds) -> Measured:
    """Run a model once to find the shape of each value of its main graph.

    Raises:
        ModelError: the model does not run on these feeds.
    """
    copy = model.clone()
    names, varying = Names(copy), data_dependent(copy)
    copy.graph.outputs.clear()
    measured: list[str] = []
    for value in [value for node in copy.graph for value in node.outputs]:
        producer = value.producer()
        if not value.name or producer is None or producer.op_type in SEQUENCES:
            continue
        if value in varying:  # its shape alone, so that no activation is kept
            size = ir.Value(name=names.fresh(f"{value.name}_size"), type=ir.TensorType(ir.DataType.INT64))
            add_node(copy.graph, "Shape", [value], [size], name=names.fresh(f"{value.name}_Shape"))
            copy.graph.outputs.append(size)
        else:
            copy.graph.outputs.append(value)
        measured.append(value.name)
        value.shape = None  # the runtime plans memory by stated shapes, which may be wrong
    sort_nodes(copy)
    arrays = run(open_session(copy, optimize=False), feeds, "a batch")
    shapes = {name: array.shape for name, array in feeds.items()}
    known: dict[str, Array] = {}
    computed = {value.name for value in varying}
    for name, array in zip(measured, arrays, strict=True):
        if name in computed:
            shapes[name] = tuple(array.tolist())
        elif isinstance(array, np.ndarray):
            shapes[name] = array.shape
            if array.size <= KNOWN_VALUES:
                known[name] = array
    return Measured(shapes, known)


def data_dependent(model: ir.Model) -> set[ir.Value]:
    """Return the values that depend on the data of the inputs, not on their shapes alone."""
    found = {value for value in model.graph.inputs if value.name not in model.graph.initializers}
    for node in model.graph:
        inner = [
            value
            for attribute in node.attributes.values()
            if attribute.type == ir.AttributeType.GRAPH
            for each in attribute.as_graph().all_nodes()
            for value in each.inputs
        ]
        random = node.op_type.startswith(("Random", "Multinomial", "Bernoulli"))
        if node.op_type not in WITHOUT_DATA and (random or not found.isdisjoint([*node.inputs, *inner])):
            found.update(node.outputs)
    return found


def append_gradients(
    tape: Tape, nodes: Sequence[ir.Node], seeds: Mapping[ir.Value, ir.Value], parameters: Collection[ir.Value]
) -> tuple[dict[ir.Value, ir.Value], dict[str, str]]:
    """Append the backward pass of the main graph.

    Args:
        tape: the graph.
        nodes: its forward pass, sorted.
        seeds: gradient of each value that the loss depends on directly.
        parameters: values whose gradients are wanted.

    Returns:
        The gradient of each parameter that the loss depends on; and the nodes behind which gradients end
        because they have no rule, with the reason, by name.
    """
    tape.wanted.update(parameters)
    for node in nodes:
        if node.op_type not in WITHOUT_DATA and not tape.wanted.isdisjoint(node.inputs):
            tape.wanted.update(node.outputs)
    gradients, frozen = dict(seeds), dict[str, str]()
    for node in reversed(nodes):
        own = [gradients.get(value) for value in node.outputs]
        if all(each is None for each in own) or tape.wanted.isdisjoint(node.inputs):
            continue
        rule = rule_of(node)
        if rule is None:
            frozen[node.name or ""] = f"{node.op_type} has no rule"
            continue
        try:
            found = rule(tape, node, own)
        except NoRuleError as error:
            frozen[node.name or ""] = f"{node.op_type}: {error}"
            continue
        for value, gradient in zip(node.inputs, found, strict=False):
            if value is not None and gradient is not None and value in tape.wanted:
                known = gradients.get(value)
                gradients[value] = gradient if known is None else tape.op("Add", known, gradient)
    return {value: gradients[value] for value in parameters if value in gradients}, frozen
