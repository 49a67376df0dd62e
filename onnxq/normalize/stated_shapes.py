"""Shape inference that does not trust the shapes in the file.

For a wrong shape, the runtime only warns in the float model; it cannot load the int8 model made from it.
"""

import onnx_ir as ir

from onnxq.graph.edit import nodes_of
from onnxq.graph.shapes import infer_shapes


def infer_without_stated_shapes(model: ir.Model) -> bool:
    """Infer types and shapes, in place; keep a stated shape only where inference does not contradict it.

    Returns:
        Whether a type or shape differs from the file's.
    """
    before = {value: (value.dtype, value.shape) for node in nodes_of(model) for value in node.outputs}
    stated = {value: shape for value, (_, shape) in before.items() if shape is not None}
    for value in stated:
        value.shape = None
    infer_shapes(model)
    for value, shape in stated.items():
        if value.shape is None or _agree(value.shape, shape):
            value.shape = shape
    infer_shapes(model)
    return any((value.dtype, value.shape) != old for value, old in before.items())


def _agree(found: ir.Shape, stated: ir.Shape) -> bool:
    pairs = zip(found, stated, strict=False)
    return len(found) == len(stated) and all(
        a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int)
    )
