"""Graph queries and small edits, shared by all code that rewrites a graph."""

from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxq.types import Array

LARGEST = 1e30
"""A constant beyond this stands for infinity."""
MICROSOFT = "com.microsoft"
"""The domain of the runtime's own operators."""


def constant(value: ir.Value | None) -> Array | None:
    """Return the array of a constant (an initializer that no input can replace), else None."""
    if value is None or value.const_value is None or value.is_graph_input() or value.producer() is not None:
        return None
    tensor = value.const_value
    if isinstance(tensor, ir.ExternalTensor):
        array = np.array(tensor.numpy())
        with suppress(BufferError):  # a file being written still reads it
            tensor.release()  # mapped pages of a file count as memory of this process
        return array
    return np.asarray(tensor.numpy())


def is_constant(value: ir.Value | None) -> bool:
    """Whether a value is a constant; unlike `constant`, this reads no data."""
    return (
        value is not None
        and value.const_value is not None
        and value.producer() is None
        and not value.is_graph_input()
    )


def masks(array: Array) -> bool:
    """Whether a constant has infinite values, or values too large for a scale that holds others, too."""
    return array.size > 0 and not bool(max(array.max(), -array.min()) < LARGEST)


def attribute(
    node: ir.Node, name: str, default: int | float | str | list[int]
) -> int | float | str | list[int]:
    """Return an attribute's value, or the default of the operator's specification."""
    found = node.attributes.get(name)
    if found is None:
        return default
    value = found.value
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if isinstance(value, (list, tuple)) else value


def factor(node: ir.Node, name: str, default: float) -> float:
    """Return an attribute that is a float."""
    value = attribute(node, name, default)
    assert isinstance(value, (int, float))
    return float(value)


def permutation(node: ir.Node) -> tuple[int, ...]:
    """Return the axis order of a Transpose; empty if it has none."""
    found = node.attributes.get("perm")
    return tuple(found.as_ints()) if found is not None else ()


def input_at(node: ir.Node, index: int | None) -> ir.Value | None:
    """Return the input at an index, None if it is left out."""
    return node.inputs[index] if index is not None and index < len(node.inputs) else None


def is_float(value: ir.Value | None) -> bool:
    """Whether the value is known to be a float32 tensor."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def only_use(value: ir.Value) -> ir.Node | None:
    """Return the only node that uses a value; None if there are several or the value leaves the graph."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    (use,) = uses
    return use.node if use.node.graph is value.graph else None


def sizes(value: ir.Value | None) -> list[int] | None:
    """Return a value's static shape, or None if any size is unknown."""
    if value is None or value.shape is None:
        return None
    found = [size for size in value.shape if isinstance(size, int)]
    return found if len(found) == len(value.shape) else None


def known_rank(value: ir.Value | None) -> int | None:
    """Return the number of axes, None if unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def nodes_of(model: ir.Model) -> Iterator[ir.Node]:
    """Yield every node of a model: main graph, then bodies and functions."""
    for graph in model.graphs():
        yield from graph
    for function in model.functions.values():
        yield from function


def values_read(node: ir.Node) -> list[ir.Value | None]:
    """Return the values that a node reads, also from within its bodies."""
    values = list(node.inputs)
    for each in node.attributes.values():
        if isinstance(each, ir.Attr) and each.type == ir.AttributeType.GRAPH:
            graph = each.as_graph()
            values += [
                value
                for inner in graph
                for value in values_read(inner)
                if value is not None and _outside(value, graph)
            ]
            values += [value for value in graph.outputs if _outside(value, graph)]
    return values


def _outside(value: ir.Value, graph: ir.Graph) -> bool:
    """Check that a body takes a value from outside of it."""
    producer = value.producer()
    return (producer is not None and producer.graph is not graph) or (
        producer is None and value not in graph.inputs
    )


def graph_of(node: ir.Node) -> ir.Graph:
    """Return the graph or body that contains a node (functions are inlined before planning)."""
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def body_owners(model: ir.Model) -> dict[ir.Graph, ir.Node]:
    """Return the node that owns each body of a model."""
    return {
        attribute.as_graph(): node
        for node in nodes_of(model)
        for attribute in node.attributes.values()
        if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref()
    }


class Names:
    """Source of names that no value, node or initializer of the model has."""

    def __init__(self, model: ir.Model) -> None:
        self.taken: set[str] = set()
        self._counts: dict[str, int] = {}
        for graph in model.graphs():
            self.taken.update(graph.initializers)
            self.taken.update(value.name for value in graph.inputs if value.name)
        for node in nodes_of(model):
            self.taken.update(value.name for value in node.outputs if value.name)
            if node.name:
                self.taken.add(node.name)

    def fresh(self, wish: str) -> str:
        """Return `wish`, or `wish_2`, `wish_3`, ... if that is taken."""
        name = wish
        if wish in self.taken:
            # all lower numbers are taken: names are never given back
            count = self._counts.get(wish, 1) + 1
            while f"{wish}_{count}" in self.taken:
                count += 1
            self._counts[wish], name = count, f"{wish}_{count}"
        self.taken.add(name)
        return name


def add_initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Register a new constant and return its value; the name must come from `Names`."""
    value = constant_value(array, name)
    graph.register_initializer(value)
    return value


def constant_value(array: Array, name: str | None = None) -> ir.Value:
    """Make a value that holds an array; it belongs to no graph yet."""
    # not ir.tensor, which checks protocols first: a sixteenth of a large model's time
    tensor = ir.Tensor(array, name=name)
    return ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )


def add_node(
    graph: ir.Graph,
    op_type: str,
    inputs: list[ir.Value | None],
    outputs: list[ir.Value],
    *,
    name: str,
    domain: str = "",
    **attributes: int | float | str | list[int],
) -> ir.Node:
    """Append a node; `tidy` or `sort_nodes` sorts the graph once after all edits."""
    converted = [ir.convenience.convert_attribute(key, value) for key, value in sorted(attributes.items())]
    node = ir.Node(domain, op_type, inputs, converted, outputs=outputs, name=name)
    graph.append(node)
    return node


def tidy(model: ir.Model) -> bool:
    """Remove unused nodes and sort the others, in place; return whether either changed the model."""
    removed = passes.RemoveUnusedNodesPass()(model).modified
    return sort_nodes(model) or removed


def sort_nodes(model: ir.Model) -> bool:
    """Sort the nodes topologically, in place; return whether the order changed."""
    before = list(model.graph.all_nodes())
    model.graph.sort()
    return any(old is not new for old, new in zip(before, model.graph.all_nodes(), strict=True))


def take_output(new_output: ir.Value, old: ir.Value) -> None:
    """Replace `old` by `new_output` everywhere, graph outputs included, under the old name."""
    name, new_output.shape, new_output.type = old.name, old.shape, old.type
    ir.convenience.replace_all_uses_with(old, new_output, replace_graph_outputs=True)
    old.name = None
    new_output.name = name


def scalar_operand(node: ir.Node) -> tuple[ir.Value | None, float | None]:
    """Return (x, c) of a commutative node over a value and a scalar constant that adds no axes."""
    for x, other in (node.inputs, node.inputs[::-1]):
        array = constant(other)
        if array is None or array.size != 1 or x is None or constant(x) is not None:
            continue
        if array.ndim == 0 or array.ndim <= (known_rank(x) or 0):
            return x, float(array.reshape(()))
    return None, None


def reduced_axes(node: ir.Node) -> list[int]:
    """Return the axes of a reduction; empty if it has none or they are computed."""
    given = input_at(node, 1)
    stated = constant(given)
    axes = attribute(node, "axes", []) if given is None else [] if stated is None else stated.ravel().tolist()
    return axes if isinstance(axes, list) else []
