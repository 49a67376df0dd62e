"""Conversion of models in other float types to float32, the only one with integer kernels."""

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import Names, add_node, nodes_of

OTHERS = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
TYPES = frozenset({"to", "dtype", "output_dtype", "stash_type"})
"""Attributes that name a type."""
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def compute_in_float32(model: ir.Model) -> bool:
    """Let a model with products in another float type compute in float32, in place.

    The model's inputs and outputs keep their types. A model with operators of `ai.onnx.ml`, which fix their
    own types, stays as it is.

    Returns:
        Whether the model was converted.
    """
    nodes = list(nodes_of(model))
    if not any(node.op_type in PRODUCTS and node.outputs[0].dtype in OTHERS for node in nodes):
        return False
    if any(node.domain == "ai.onnx.ml" for node in nodes):
        return False
    names = Names(model)
    ends = {
        value: value.dtype for value in (*model.graph.inputs, *model.graph.outputs) if value.dtype in OTHERS
    }
    defaults = {value: value.const_value for value in model.graph.inputs}
    for graph in model.graphs():
        for value in [
            *graph.inputs,
            *graph.initializers.values(),
            *(v for node in graph for v in node.outputs),
        ]:
            _retype(value)
    for node in nodes:
        _retype_attributes(node)
    for value, kind in ends.items():
        assert kind is not None
        if value.is_graph_input():
            value.const_value = defaults[value]
            _cast_input(model.graph, value, kind, names)
        else:
            _cast_output(model.graph, value, kind, names)
    model.graph.sort()
    return True


def _retype(value: ir.Value) -> None:
    if value.dtype in OTHERS:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    if value.const_value is not None and value.const_value.dtype in OTHERS:
        value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)


def _retype_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in OTHERS:
            node.attributes[name] = ir.AttrTensor(
                name, ir.tensor(attribute.as_tensor().numpy().astype(np.float32))
            )
        elif (
            name in TYPES
            and attribute.type == ir.AttributeType.INT
            and ir.DataType(attribute.as_int()) in OTHERS
        ):
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))


def _cast_input(graph: ir.Graph, value: ir.Value, kind: ir.DataType, names: Names) -> None:
    value.type = ir.TensorType(kind)
    inside = ir.Value(
        name=names.fresh(f"{value.name}_float32"), shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT)
    )
    for use in list(value.uses()):
        use.node.replace_input_with(use.idx, inside)
    add_node(
        graph, "Cast", [value], [inside], name=names.fresh(f"{value.name}_Cast"), to=int(ir.DataType.FLOAT)
    )


def _cast_output(graph: ir.Graph, value: ir.Value, kind: ir.DataType, names: Names) -> None:
    name = value.name
    outside = ir.Value(shape=value.shape, type=ir.TensorType(kind))
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = outside
    add_node(graph, "Cast", [value], [outside], name=names.fresh(f"{name}_Cast"), to=int(kind))
    value.name = names.fresh(f"{name}_float32")
    outside.name = name
