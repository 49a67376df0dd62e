"""Removal of operands of Concat that add nothing.

ONNX Runtime before 1.24 divides by zero and ends the process when it moves a Transpose through a Concat with
an empty constant, as it does between integer convolutions.
"""

import onnx_ir as ir

from onnxq.graph.edit import attribute, is_constant, nodes_of, sizes
from onnxq.runtime.release import runtime_release

MENDED = (1, 24)
"""The first release of ONNX Runtime that transposes empty constants; files for it stay as they are."""


def drop_empty_operands(model: ir.Model, release: tuple[int, int] | None = None) -> bool:
    """Remove empty constants from each Concat, in place; return whether there was any.

    A Concat of a single operand becomes an Identity.

    Args:
        model: the model to rewrite.
        release: of the runtime; None for the installed one.
    """
    if (runtime_release() if release is None else release) >= MENDED:
        return False
    modified = False
    for node in nodes_of(model):
        axis = attribute(node, "axis", 0)
        if node.op_type != "Concat" or node.domain not in ("", "ai.onnx") or not isinstance(axis, int):
            continue
        kept = [value for value in node.inputs if not _is_empty(value, axis)]
        if not 0 < len(kept) < len(node.inputs):
            continue
        for index, value in enumerate(kept):
            node.replace_input_with(index, value)
        node.resize_inputs(len(kept))
        if len(kept) == 1:
            node.op_type = "Identity"
            node.attributes.clear()
        modified = True
    return modified


def _is_empty(value: ir.Value | None, axis: int) -> bool:
    """Whether a value is a constant without elements along an axis."""
    shape = sizes(value) if is_constant(value) else None
    return shape is not None and -len(shape) <= axis < len(shape) and shape[axis] == 0
