"""Types and shapes of a model by onnx's inference, and its opset version."""

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxq.graph.edit import nodes_of

SEQUENCES = frozenset(
    {
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceMap",
        "SplitToSequence",
        "Optional",
    }
)

MAKES_MAPS = "ai.onnx.ml", "ZipMap"
"""Domain and name of the operator whose result is a sequence of maps."""


def opset_of(model: ir.Model) -> int:
    """Return the version of the standard operators that the main graph imports."""
    return model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx", 1))


def infer_shapes(model: ir.Model) -> bool:
    """Fill in the types and shapes that onnx can infer, in place; return whether any changed."""
    stated = {value: value.type for value in model.graph.outputs}
    with _maps_hidden(model):
        modified = passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(
            model
        ).modified
    for node in nodes_of(model):
        for value in node.outputs:
            if _is_sequence(value):
                # the pass takes a sequence for a tensor of its elements' type
                value.type = value.shape = None
                if isinstance(stated.get(value), ir.SequenceType | ir.OptionalType):
                    value.type = stated[value]
    return modified


@contextmanager
def _maps_hidden(model: ir.Model) -> Iterator[None]:
    """Hide the nodes that make maps, whose types onnx_ir cannot read, within the block."""
    nodes = [node for node in nodes_of(model) if (node.domain, node.op_type) == MAKES_MAPS]
    for node in nodes:
        node.op_type = "Hidden"
    try:
        yield
    finally:
        for node in nodes:
            node.op_type = MAKES_MAPS[1]


def _is_sequence(value: ir.Value) -> bool:
    node = value.producer()
    if node is None:
        return False
    if node.op_type in ("If", "Loop"):
        bodies = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
        index = value.index()
        assert index is not None
        return any(_is_sequence(body.outputs[index + (node.op_type == "Loop")]) for body in bodies)
    return node.op_type in SEQUENCES
