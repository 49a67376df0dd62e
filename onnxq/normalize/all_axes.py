"""Pad and Resize over all axes instead of chosen ones.

The runtime (1.31) cannot move a Transpose past a Pad or Resize with `axes`, as it does around integer
convolutions: it then fails on the model.
"""

import numpy as np
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
    sizes,
    sort_nodes,
)
from onnxq.types import Array

CROP = "tf_crop_and_resize"
"""The mode of Resize that reads the region of interest."""
ROI, SCALES, SIZES = 1, 2, 3
"""Indices of the inputs of Resize."""


def name_all_axes(model: ir.Model) -> bool:
    """Rewrite Pads and Resizes with chosen axes, in place; return whether any was rewritten."""
    names, modified = Names(model), False
    rules = {"Pad": _pad, "Resize": _resize}
    for node in list(nodes_of(model)):
        rule = rules.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rule is not None:
            modified |= rule(model, node, names)
    return sort_nodes(model) or modified


def _pad(model: ir.Model, node: ir.Node, names: Names) -> bool:
    axes, rank = constant(input_at(node, 3)), known_rank(node.inputs[0])
    if axes is None or not rank:
        return False
    places = np.concatenate([axes % rank, axes % rank + rank])
    pads = _spread(model, node, 1, np.zeros(2 * rank, np.int64), places, names)
    if pads is None:
        return False
    node.replace_input_with(1, pads)
    node.resize_inputs(3 if input_at(node, 2) is not None else 2)
    return True


def _resize(model: ir.Model, node: ir.Node, names: Names) -> bool:
    x, rank = node.inputs[0], known_rank(node.inputs[0])
    chosen = attribute(node, "axes", [])
    if not isinstance(chosen, list) or not chosen or not rank or x is None:
        return False
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return False  # the other axes would take part in it
    axes = np.array(chosen, np.int64) % rank
    index = SIZES if input_at(node, SIZES) is not None else SCALES
    before: Array | ir.Value = np.ones(rank, np.float32)
    if index == SIZES:
        known = sizes(x)
        before = _shape(node, x, names) if known is None else np.asarray(known, np.int64)
    replaced = {index: _spread(model, node, index, before, axes, names)}
    if input_at(node, ROI) is not None and attribute(node, "coordinate_transformation_mode", "") == CROP:
        whole = np.array([0.0] * rank + [1.0] * rank, np.float32)
        places = np.concatenate([axes, axes + rank])
        replaced[ROI] = _spread(model, node, ROI, whole, places, names)
    if any(value is None for value in replaced.values()):
        return False
    for at, value in replaced.items():
        node.replace_input_with(at, value)
    node.attributes.pop("axes")
    return True


def _spread(
    model: ir.Model, node: ir.Node, index: int, before: Array | ir.Value, places: Array, names: Names
) -> ir.Value | None:
    """Return `before` with the numbers of an input at the given places."""
    value = node.inputs[index]
    numbers, wish = constant(value), f"{node.name}_{index}_all"
    if value is None or (numbers is None and value.dtype is None):
        return None
    if numbers is not None and not isinstance(before, ir.Value):
        result = before.astype(numbers.dtype)
        result[places] = numbers
        return add_initializer(model.graph, names.fresh(wish), result)
    if not isinstance(before, ir.Value):
        assert value.dtype is not None
        kind = value.dtype.numpy()
        before = add_initializer(model.graph, names.fresh(f"{wish}_rest"), before.astype(kind))
    at = add_initializer(model.graph, names.fresh(f"{wish}_places"), places.astype(np.int64))
    output = ir.Value(name=names.fresh(wish), type=value.type, shape=ir.Shape([None]))
    add_node(
        graph_of(node),
        "ScatterElements",
        [before, at, value],
        [output],
        name=names.fresh(f"{wish}_node"),
        axis=0,
    )
    return output


def _shape(node: ir.Node, x: ir.Value, names: Names) -> ir.Value:
    rank = known_rank(x) or 0
    output = ir.Value(
        name=names.fresh(f"{node.name}_shape"), type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([rank])
    )
    add_node(graph_of(node), "Shape", [x], [output], name=names.fresh(f"{node.name}_Shape"))
    return output
