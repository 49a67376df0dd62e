"""Conversion of old models to the opset that quantization needs.

Versions of an operator may differ in more than their form. onnx's converter knows most differences (the axis
of Softmax, attributes that became inputs); `_CORRECTIONS` holds those that it does not know.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxq.graph.edit import (
    Names,
    add_initializer,
    add_node,
    attribute,
    constant,
    graph_of,
    input_at,
    known_rank,
    nodes_of,
    sort_nodes,
    take_output,
)
from onnxq.graph.file_forms import drop_map_types
from onnxq.graph.shapes import opset_of
from onnxq.types import Array

LEAST_OPSET = 13
"""The first opset whose QuantizeLinear and DequantizeLinear have an axis, for per-channel scales."""
INCONVERTIBLE = {"Scan": 9}
"""Operators whose inputs changed their meaning, with the first opset of the new meaning."""


def lift_opset(model: ir.Model, least: int = LEAST_OPSET) -> ir.Model:
    """Convert an older model to opset `least`; return it unchanged where that is impossible.

    An older opset is no error: the writer then uses the Q/DQ operators of the com.microsoft domain.
    """
    before = opset_of(model)
    if before >= least or any(before < INCONVERTIBLE.get(node.op_type, 0) for node in nodes_of(model)):
        return model
    folders = {
        value.name: value.const_value.base_dir
        for value in model.graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    }
    try:
        proto = onnx.version_converter.convert_version(ir.serde.serialize_model(model), least)
        drop_map_types(proto.graph)
        lifted = ir.serde.deserialize_model(proto)
    except Exception:  # the converter raises RuntimeError and others for operators without an adapter
        return model
    for value in lifted.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value.base_dir = folders[value.name]
    lifted.ir_version = max(model.ir_version, 7 if least == LEAST_OPSET else 10)
    _restore_unknown_shapes(model, lifted)
    return lifted if _correct(lifted, before, least) else model


def _restore_unknown_shapes(model: ir.Model, lifted: ir.Model) -> None:
    """Make shapes unknown again that the converter took for those of scalars."""
    unknown = {value.name for value in _values(model) if value.shape is None}
    for value in _values(lifted):
        if value.name in unknown and known_rank(value) == 0:
            value.shape = None


def _values(model: ir.Model) -> list[ir.Value]:
    ends = [value for graph in model.graphs() for value in (*graph.inputs, *graph.outputs)]
    return ends + [value for node in nodes_of(model) for value in node.outputs]


def _correct(model: ir.Model, before: int, after: int) -> bool:
    """Give operators the meaning of opset `before`, in place; False where one has no such form."""
    names = Names(model)
    for node in list(nodes_of(model)):
        if node.domain not in ("", "ai.onnx") or node.op_type not in _CORRECTIONS:
            continue
        changed_in, correction = _CORRECTIONS[node.op_type]
        if before < changed_in <= after and not correction(node, names):
            return False
    sort_nodes(model)
    return True


def _hardmax(node: ir.Node, names: Names) -> bool:
    """Before opset 13, Hardmax works on its input as a matrix, with all axes from `axis` on as one."""
    x, graph = node.inputs[0], graph_of(node)
    axis = attribute(node, "axis", 1)
    if x is None or not isinstance(axis, int) or (axis < 0 and known_rank(x) is None):
        return False
    matrix, largest, shape, output = (
        ir.Value(name=names.fresh(f"{node.outputs[0].name}_{part}"))
        for part in ("matrix", "largest", "shape", "")
    )
    flat = axis + (known_rank(x) or 0) if axis < 0 else axis
    add_node(graph, "Flatten", [x], [matrix], name=names.fresh(f"{node.name}_Flatten"), axis=flat)
    add_node(graph, "Hardmax", [matrix], [largest], name=node.name or "", axis=1)
    add_node(graph, "Shape", [x], [shape], name=names.fresh(f"{node.name}_Shape"))
    add_node(graph, "Reshape", [largest, shape], [output], name=names.fresh(f"{node.name}_Reshape"))
    take_output(output, node.outputs[0])
    graph.remove(node, safe=True)
    return True


def _pad(node: ir.Node, _: Names) -> bool:
    """Remove the attribute that became an input; the converter leaves it where the mode ignores it."""
    node.attributes.pop("value", None)
    return True


def _resize(node: ir.Node, _: Names) -> bool:
    """Before opset 11, pixels lie at their edges: asymmetric, and nearest is the left one in an enlargement.

    In a reduction, the runtime takes the right one. For whole factors, and one half, the nearest pixels are
    the same in both versions.
    """
    linear = attribute(node, "mode", "nearest") != "nearest"
    scales = _known(input_at(node, 2))
    if not linear:
        if scales is None or bool(((scales == np.maximum(np.rint(scales), 1)) | (scales == 0.5)).all()):
            return True
        larger, smaller = bool((scales > 1).any()), bool((scales < 1).any())
        if larger and smaller:
            return False
        node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", "ceil" if smaller else "floor")
    key = "coordinate_transformation_mode"
    node.attributes[key] = ir.AttrString(key, "asymmetric")
    return True


def _known(value: ir.Value | None) -> Array | None:
    """Return the array of an initializer or of a Constant node."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Constant" or "value" not in node.attributes:
        return constant(value)
    return np.asarray(node.attributes["value"].as_tensor().numpy())


def _group_normalization(node: ir.Node, names: Names) -> bool:
    """Before opset 21, scale and bias have one value for each group, since then one for each channel."""
    x, groups, graph = node.inputs[0], attribute(node, "num_groups", 1), graph_of(node)
    if x is None or not isinstance(groups, int):
        return False
    channels = x.shape[1] if x.shape is not None and len(x.shape) > 1 else None
    for index in (1, 2):
        value = node.inputs[index]
        array = constant(value)
        if value is None:
            return False
        if array is not None and isinstance(channels, int):
            name, repeated = names.fresh(f"{value.name}_by_channel"), np.repeat(array, channels // groups)
            node.replace_input_with(index, add_initializer(graph, name, repeated))
        else:
            node.replace_input_with(index, _repeated(graph, x, value, groups, names))
    return True


def _repeated(graph: ir.Graph, x: ir.Value, value: ir.Value, groups: int, names: Names) -> ir.Value:
    """Repeat the values [groups] for the channels of x, [channels]."""

    def add(op_type: str, inputs: list[ir.Value | None], **attributes: Any) -> ir.Value:
        output = ir.Value(name=names.fresh(f"{value.name}_{op_type}"))
        add_node(graph, op_type, inputs, [output], name=names.fresh(f"{value.name}_node"), **attributes)
        return output

    count, column, row = (
        add_initializer(graph, names.fresh(f"{value.name}_{part}"), np.array(numbers, np.int64))
        for part, numbers in (("groups", [groups]), ("column", [groups, 1]), ("row", [-1]))
    )
    channels = add("Shape", [x], start=1, end=2)
    shape = add("Concat", [count, add("Div", [channels, count])], axis=0)
    return add("Reshape", [add("Expand", [add("Reshape", [value, column]), shape]), row])


_CORRECTIONS: dict[str, tuple[int, Callable[[ir.Node, Names], bool]]] = {
    "GroupNormalization": (21, _group_normalization),
    "Hardmax": (13, _hardmax),
    "Pad": (11, _pad),
    "Resize": (11, _resize),
}
"""The opset that changed the meaning of an operator, and the correction of a converted node, in place."""
