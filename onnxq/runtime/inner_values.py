"""Inner values of a model as additional outputs; those of a body leave through its node.

An If gets one more output, empty if the other branch is taken. A Loop or Scan gets one more scan output,
which stacks the iterations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import Names, add_node, body_owners, constant_value
from onnxq.types import Array

OBSERVABLE = frozenset({("", "If"), ("", "Loop"), ("", "Scan")})
"""Operators whose bodies can expose values."""


@dataclass(frozen=True)
class Exposed:
    """A copy of a model with more outputs.

    model    the copy
    outputs  by the name of each requested value: its output, and the number of Loops or Scans that stack it
    """

    model: ir.Model
    outputs: dict[str, tuple[str, int]]

    def values(self, fetched: Sequence[Array]) -> dict[str, Array]:
        """Return arrays by name from those fetched in the order of `outputs`; axis 0 joins iterations."""
        return {
            name: _unstacked(array, levels)
            for (name, (_, levels)), array in zip(self.outputs.items(), fetched, strict=True)
        }

    def known(self, found: Mapping[str, Array]) -> dict[str, Array]:
        """Return arrays by name from those found by the name of their outputs, which may be some of all."""
        return {
            name: _unstacked(found[output], levels)
            for name, (output, levels) in self.outputs.items()
            if output in found
        }


def expose(model: ir.Model, names: Sequence[str]) -> Exposed:
    """Copy a model and make the named values, of the main graph or its bodies, outputs."""
    copy = model.clone()
    owners, fresh = body_owners(copy), Names(copy)
    wanted = set(names)
    present = {value.name for value in copy.graph.outputs}
    found: dict[str, tuple[str, int]] = {}
    for graph in list(copy.graphs()):
        values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
        for value in values:
            if value.name not in wanted or value.name in found:
                continue
            name, inner, levels = value.name, graph, 0
            while inner in owners:
                owner = owners[inner]
                value, stacked = _expose_from_body(copy, owner, inner, value, fresh)
                assert isinstance(owner.graph, ir.Graph)
                inner, levels = owner.graph, levels + stacked
            if value.name not in present:
                copy.graph.outputs.append(value)
            found[name] = value.name or "", levels
    return Exposed(copy, {name: found[name] for name in names})


def _expose_from_body(
    model: ir.Model, owner: ir.Node, body: ir.Graph, value: ir.Value, names: Names
) -> tuple[ir.Value, int]:
    """Add an output to `owner` for a value of one of its bodies; return it, and 1 if it is stacked."""
    for attribute in owner.attributes.values():
        if attribute.type != ir.AttributeType.GRAPH:
            continue
        graph = attribute.as_graph()
        shown = ir.Value(
            name=names.fresh(f"{value.name}_shown"),
            type=value.type,
            shape=value.shape if graph is body else ir.Shape([0]),
        )
        source = value
        if graph is not body:
            empty = np.zeros(0, value.dtype.numpy() if value.dtype is not None else np.float32)
            source = constant_value(empty, names.fresh(f"{value.name}_empty"))
            model.graph.register_initializer(source)
        add_node(graph, "Identity", [source], [shown], name=names.fresh(f"{value.name}_show"))
        graph.outputs.append(shown)
    if owner.op_type == "Scan":
        for key in ("scan_output_axes", "scan_output_directions"):
            listed = owner.attributes.get(key)
            if listed is not None:
                owner.attributes[key] = ir.AttrInt64s(key, [*listed.as_ints(), 0])
    owner.resize_outputs(len(body.outputs) - (owner.op_type == "Loop"))  # a Loop's body has its condition too
    output = owner.outputs[-1]
    output.name, output.type = names.fresh(f"{value.name}_out"), value.type
    return output, int(owner.op_type != "If")


def _unstacked(array: Array, levels: int) -> Array:
    for _ in range(levels):
        if array.ndim > 2:
            array = array.reshape(-1, *array.shape[2:])
    return array
