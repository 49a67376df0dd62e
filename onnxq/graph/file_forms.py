"""Forms of the file format that onnx_ir does not read, rewritten into equivalent ones.

sparse initializer, sparse Constant  -> dense
domain `ai.onnx`                     -> the same domain by its other name, ""
map types of outputs and values      -> no type; they are returned, for the written file
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from onnxq.errors import ModelError
from onnxq.types import Array

LARGEST_DENSE = 2 << 30
"""Bytes of a dense tensor above which a sparse one is refused; protobuf holds no larger one."""

Types = dict[str, onnx.TypeProto]
"""Types by the name of a value."""


def rewrite_forms(proto: onnx.ModelProto, path: Path) -> Types:
    """Rewrite a model, in place; return the types of outputs that are maps or contain them.

    Raises:
        ModelError: an input is a map, or a sparse tensor is invalid or too large.
    """
    for value in proto.graph.input:
        if _has_map(value.type):
            raise ModelError(
                f"{path}: input '{value.name}' is a map: give a model with tensor inputs only, "
                "for scikit-learn one without DictVectorizer"
            )
    _rename_domain(proto)
    for function in proto.functions:
        _rename_domain(function)
        for node in function.node:
            _rewrite_node(node, path)
    types = _map_types(proto.graph.output)
    _rewrite_graph(proto.graph, path)
    return types


def _map_types(values: Iterable[onnx.ValueInfoProto]) -> Types:
    found = Types()
    for value in values:
        if _has_map(value.type):
            found[value.name] = onnx.TypeProto()
            found[value.name].CopyFrom(value.type)
    return found


def restore_types(path: Path, types: Mapping[str, onnx.TypeProto]) -> None:
    """Write types of outputs into a model file."""
    proto = onnx.load_model(path, load_external_data=False)
    for value in proto.graph.output:
        if value.name in types:
            value.type.CopyFrom(types[value.name])
    onnx.save_model(proto, path)


def drop_map_types(graph: onnx.GraphProto) -> None:
    """Remove the map types of a graph's outputs and values, in place."""
    for value in graph.output:
        if _has_map(value.type):
            value.ClearField("type")
    kept = [value for value in graph.value_info if not _has_map(value.type)]
    if len(kept) < len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(kept)


def _rewrite_graph(graph: onnx.GraphProto, path: Path) -> None:
    for sparse in graph.sparse_initializer:
        graph.initializer.append(numpy_helper.from_array(_dense(sparse, path), sparse.values.name))
    del graph.sparse_initializer[:]
    drop_map_types(graph)
    for node in graph.node:
        _rewrite_node(node, path)


def _rewrite_node(node: onnx.NodeProto, path: Path) -> None:
    if node.domain == "ai.onnx":
        node.domain = ""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.SPARSE_TENSOR and attribute.name == "sparse_value":
            dense = numpy_helper.from_array(_dense(attribute.sparse_tensor, path))
            attribute.CopyFrom(onnx.helper.make_attribute("value", dense))
        elif attribute.type == onnx.AttributeProto.GRAPH:
            _rewrite_graph(attribute.g, path)
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            for graph in attribute.graphs:
                _rewrite_graph(graph, path)


def _rename_domain(owner: onnx.ModelProto | onnx.FunctionProto) -> None:
    """Give the import of the standard operators its short name; a second import of them goes."""
    imports = owner.opset_import
    known = {each.domain for each in imports}
    kept = [
        onnx.helper.make_opsetid("" if each.domain == "ai.onnx" else each.domain, each.version)
        for each in imports
        if each.domain != "ai.onnx" or "" not in known
    ]
    if "ai.onnx" in known:
        del imports[:]
        imports.extend(kept)


def _has_map(kind: onnx.TypeProto) -> bool:
    match kind.WhichOneof("value"):
        case "map_type":
            return True
        case "sequence_type":
            return _has_map(kind.sequence_type.elem_type)
        case "optional_type":
            return _has_map(kind.optional_type.elem_type)
        case _:
            return False


def _dense(sparse: onnx.SparseTensorProto, path: Path) -> Array:
    """Return a sparse tensor as an array; its indices are flat [values] or by axis [values, rank]."""
    where = f"{path}: sparse weight '{sparse.values.name}'"
    try:
        values = numpy_helper.to_array(sparse.values, str(path.parent))
        indices = numpy_helper.to_array(sparse.indices, str(path.parent))
    except Exception as error:
        raise ModelError(f"{where} cannot be read: {error}: export the model again") from error
    shape = tuple(sparse.dims)
    size = 1
    for length in shape:
        size *= length
    if min(shape, default=0) < 0 or size * values.itemsize > LARGEST_DENSE:
        raise ModelError(f"{where} has {size} values when dense: store it in parts, or prune the model")
    flat = indices if indices.ndim == 1 else _flat(indices, shape)
    if flat is None or flat.shape != values.shape or (flat.size and not 0 <= flat.min() <= flat.max() < size):
        raise ModelError(
            f"{where} has indices that do not fit its shape {list(shape)}: export the model again"
        )
    dense = np.zeros(size, values.dtype)
    dense[flat] = values
    return dense.reshape(shape)


def _flat(indices: Array, shape: tuple[int, ...]) -> Array | None:
    """Return indices [values, rank] as positions in a flat array, None if one is out of range."""
    if indices.ndim != 2 or indices.shape[1] != len(shape):
        return None
    if ((indices < 0) | (indices >= np.array(shape))).any():
        return None
    return np.asarray(np.ravel_multi_index(tuple(indices.T), shape)) if len(indices) else indices[:, 0]
