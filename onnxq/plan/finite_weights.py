"""Weights that are NaN or infinite: an error, because no file made from them is right."""

import numpy as np
import onnx_ir as ir

from onnxq.errors import ModelError
from onnxq.graph.edit import constant, is_constant, nodes_of

WEIGHTS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2, 3, 4),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "GRU": (1, 2, 3),
    "Gemm": (0, 1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3, 7),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3),
}
"""Indices of the inputs that are weights, by operator."""
MASKING: dict[str, tuple[int, ...]] = {
    "Add": (0, 1),
    "Div": (0, 1),
    "Gather": (0,),
    "Mul": (0, 1),
    "Sub": (0, 1),
}
"""The same of operators whose constants may be infinite, as masks are."""


def check_weights(model: ir.Model) -> None:
    """See that the weights of a model are numbers; masks may be infinite.

    Raises:
        ModelError: a weight has NaN or infinite values.
    """
    checked: set[tuple[ir.Value, bool]] = set()
    for node in nodes_of(model):
        if node.domain not in ("", "ai.onnx"):
            continue
        masking = node.op_type in MASKING
        for index in (MASKING if masking else WEIGHTS).get(node.op_type, ()):
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is None or (value, masking) in checked or not is_constant(value):
                continue
            checked.add((value, masking))
            if said := _wrong(value, infinite=not masking):
                raise ModelError(
                    f"{node.op_type} '{node.name}': its weight '{value.name}' has {said}: "
                    "export the model again from a checkpoint that is right"
                )


def _wrong(value: ir.Value, *, infinite: bool) -> str:
    """Return what is wrong with a constant, or an empty text."""
    if value.dtype is None or not value.dtype.is_floating_point():
        return ""
    array = constant(value)
    if array is None or array.size == 0 or array.dtype.kind != "f":
        return ""
    least, most = float(array.min()), float(array.max())  # NaN where any value is NaN
    if np.isfinite(least) and np.isfinite(most):
        return ""
    counts = {"NaN": int(np.isnan(array).sum()), "infinite": int(np.isinf(array).sum()) if infinite else 0}
    return " and ".join(
        f"{count} {kind} value" + ("s" if count > 1 else "") for kind, count in counts.items() if count
    )
