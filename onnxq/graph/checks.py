"""Checks of a model file that other libraries leave out, or fail on with something else than an error."""

from collections.abc import Iterable, Iterator

import onnx
import onnx_ir as ir

from onnxq.errors import ModelError

MOST_NODES, MOST_BYTES, MOST_CALLS = 200_000, 1 << 30, 100
"""Bounds of a model with its functions inlined: nodes, bytes beyond the file's own, depth of calls."""

Key = tuple[str, str, str]
"""Domain, name and overload of a function."""


def check_tensors(proto: onnx.ModelProto) -> None:
    """Check that each tensor has a known type and as many bytes as its shape says.

    Raises:
        ModelError: naming the tensor.
    """
    for tensor in tensors_of(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_entries(tensor)
        problem = _problem(tensor)
        if problem:
            raise ModelError(f"weight '{tensor.name}' {problem}: the file is damaged")


def _problem(tensor: onnx.TensorProto) -> str:
    """Describe what is wrong with a tensor; empty if nothing is."""
    if tensor.data_type not in onnx.TensorProto.DataType.values() or not tensor.data_type:
        return f"has the unknown type {tensor.data_type}"
    if any(size < 0 for size in tensor.dims):
        return f"has the shape {list(tensor.dims)}"
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return ""
    count = 1
    for size in tensor.dims:
        count *= size
    if tensor.data_type == onnx.TensorProto.STRING:
        found, wanted = len(tensor.string_data), count
    elif tensor.HasField("raw_data"):
        found, wanted = len(tensor.raw_data), -(-count * ir.DataType(tensor.data_type).bitwidth // 8)
    else:
        bits = ir.DataType(tensor.data_type).bitwidth
        found = len(getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type)))
        if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
            count *= 2
        wanted = -(-count * bits // 8) if bits < 8 else count
    return "" if found == wanted else f"has the shape {list(tensor.dims)}, but {found} bytes or values"


def _check_entries(tensor: onnx.TensorProto) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if not entries.get("location"):
        raise ModelError(f"weight '{tensor.name}' names no file for its external data")
    for key in ("offset", "length"):
        if key in entries and not (entries[key].isascii() and entries[key].isdigit()):
            raise ModelError(
                f"weight '{tensor.name}' has the {key} {entries[key]!r} in its external data: "
                "it must be a number of bytes"
            )


def tensors_of(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors of all graphs, attributes and functions."""
    graphs, nodes = [proto.graph], [node for function in proto.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            nodes.extend(graph.node)
        while nodes:
            for attribute in nodes.pop().attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
                graphs.extend(attribute.graphs)


def check_functions(proto: onnx.ModelProto) -> None:
    """Check that inlining the model's functions ends, and does not multiply them beyond bounds.

    Raises:
        ModelError: a function calls itself, or the model grows too large.
    """
    if not proto.functions:
        return
    bodies = {(f.domain, f.name, f.overload): list(_nodes(f.node)) for f in proto.functions}
    sizes: dict[Key, tuple[int, int, int]] = {}
    for key in _callees_first(bodies):
        sizes[key] = _expanded(bodies[key], sizes)
    nodes, added, calls = _expanded(list(_nodes(proto.graph.node)), sizes)
    if nodes > MOST_NODES or added > MOST_BYTES + proto.ByteSize() or calls > MOST_CALLS:
        raise ModelError(
            f"its functions expand to {nodes} nodes and {added} bytes, {calls} calls deep: "
            f"more than {MOST_NODES} nodes, {MOST_BYTES} bytes or {MOST_CALLS} calls are refused"
        )


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes and those of their bodies."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                waiting.extend(attribute.g.node)
            for graph in attribute.graphs:
                waiting.extend(graph.node)


def _callee(node: onnx.NodeProto) -> Key:
    return node.domain, node.op_type, node.overload


def _callees_first(bodies: dict[Key, list[onnx.NodeProto]]) -> list[Key]:
    """Order functions so that each follows those it calls."""
    ordered: dict[Key, None] = {}
    for start in bodies:
        path = [start]
        callers = {start}
        while path:
            key = path[-1]
            called = next((c for c in map(_callee, bodies[key]) if c in bodies and c not in ordered), None)
            if called is None:
                ordered[key] = None
                callers.discard(path.pop())
            elif called in callers:
                raise ModelError(f"function '{called[1]}' of domain '{called[0]}' calls itself")
            else:
                path.append(called)
                callers.add(called)
    return list(ordered)


def _expanded(nodes: list[onnx.NodeProto], sizes: dict[Key, tuple[int, int, int]]) -> tuple[int, int, int]:
    """Return the nodes, the bytes and the depth of calls after inlining."""
    count = size = depth = 0
    for node in nodes:
        inner = sizes.get(_callee(node))
        count += 1 if inner is None else inner[0]
        size += node.ByteSize() if inner is None else inner[1]
        depth = max(depth, 0 if inner is None else inner[2] + 1)
    return count, size, depth


def check_names(proto: onnx.ModelProto) -> None:
    """Check that all names are UTF-8, and that attributes have a type.

    Raises:
        ModelError: naming the node.
    """
    for nodes in [proto.graph.node, *(function.node for function in proto.functions)]:
        for node in _nodes(nodes):
            attributes = [attribute.name for attribute in node.attribute]
            names = [node.op_type, node.domain, node.name, *node.input, *node.output, *attributes]
            _check_texts(names, f"{node.op_type!r} {node.name!r}")
            for attribute in node.attribute:
                if not attribute.type and attribute.name and not attribute.ref_attr_name:
                    raise ModelError(f"attribute '{attribute.name}' of {node.op_type} has no type")
    values = [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]
    weights = [tensor.name for tensor in proto.graph.initializer]
    _check_texts([*weights, *(value.name for value in values)], "the graph")
    for function in proto.functions:
        names = [function.domain, function.name, *function.input, *function.output, *function.attribute]
        _check_texts(names, f"function {function.name!r}")
    _check_texts([opset.domain for opset in proto.opset_import], "the opsets")


def _check_texts(texts: Iterable[object], where: str) -> None:
    if not all(isinstance(text, str) for text in texts):  # the parser gives bytes if they are not UTF-8
        raise ModelError(f"{where} has a name that is no text: the file is damaged")


def check_order(model: ir.Model) -> None:
    """Sort nodes that come before a node whose result they take, in place.

    Raises:
        ModelError: a node takes a value that nothing gives, or its own result through others.
    """
    for graph in [*model.graphs(), *(function.graph for function in model.functions.values())]:
        for node in graph:
            for value in node.inputs:
                if value is not None and not _given(value):
                    raise ModelError(
                        f"{node.op_type} '{node.name}' takes '{value.name}', which nothing gives"
                    )
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    for graph in graphs:
        if not _is_sorted(graph):
            try:
                graph.sort()
            except ValueError as error:
                raise ModelError("its nodes form a cycle") from error


def _given(value: ir.Value) -> bool:
    return value.producer() is not None or value.is_graph_input() or value.is_initializer() or not value.name


def _is_sorted(graph: ir.Graph) -> bool:
    """Whether each node of a graph and its bodies follows those whose results it takes."""
    seen: set[ir.Node] = set()
    inside = set(graph.all_nodes())
    for node in _in_order(graph):
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer in inside and producer not in seen:
                return False
        seen.add(node)
    return True


def _in_order(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the nodes of a graph; those of a node's bodies come before it."""
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                yield from _in_order(attribute.as_graph())
            elif attribute.type == ir.AttributeType.GRAPHS and not attribute.is_ref():
                for body in attribute.as_graphs():
                    yield from _in_order(body)
        yield node
