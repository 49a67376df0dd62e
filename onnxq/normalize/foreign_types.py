"""Types behind operators of other domains: onnx cannot infer them, but the runtime knows them."""

import numpy as np
import onnx_ir as ir

from onnxq.errors import ModelError
from onnxq.runtime.sessions import NUMPY_TYPES, open_session


def ask_types(model: ir.Model) -> bool:
    """Fill in missing types and ranks of values of the main graph, in place; return whether any was found."""
    untyped = [value for node in model.graph for value in node.outputs if value.type is None and value.uses()]
    if not untyped:
        return False
    copy = model.clone()
    wanted = {value.name for value in untyped}
    copy.graph.outputs.extend(value for node in copy.graph for value in node.outputs if value.name in wanted)
    try:
        found = {node.name: node for node in open_session(copy, optimize=False).get_outputs()}
    except ModelError:
        return False  # the error is reported where the model is run
    modified = False
    for value in untyped:
        node = found[value.name or ""]
        if node.type in NUMPY_TYPES:
            modified = True
            value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(NUMPY_TYPES[node.type])))
            if value.shape is None and node.shape:
                value.shape = ir.Shape([size if isinstance(size, int) else None for size in node.shape])
    return modified
