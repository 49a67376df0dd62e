"""Facts about the runtime on this machine that decide plans, found by running it."""

import numpy as np
import onnx_ir as ir

from onnxq.graph.files import load
from onnxq.graph.scratch import ScratchFolder
from onnxq.profiling.models import SmallModel, weight_of
from onnxq.runtime.sessions import open_session

BLOCKS = (4, 8, 16, 32, 64)
"""Channels in a block of the float convolutions' layout that are looked for."""
NCHWC = "com.microsoft.nchwc"
"""Domain of the operators in the blocked layout."""
DEPTH = 256
"""Length of the sums in which saturation is looked for; kernels may treat short ones otherwise."""


def block_size() -> int:
    """Return the channels in a block of the float convolutions' layout; 0 if the runtime has none here.

    A convolution of two groups is in this layout if each group fills whole blocks.
    """
    with ScratchFolder() as folder:
        for block in BLOCKS:
            model = SmallModel((1, 2 * block, 8, 8))
            weight = weight_of((2 * block, block, 3, 3))
            saved = folder / f"{block}.onnx"
            open_session(model.finished(model.op("Conv", model.start, weight, group=2)), save_optimized=saved)
            if any(node.domain == NCHWC for node in load(saved).graph):
                return block
    return 0


def saturates() -> bool:
    """Tell whether integer kernels add two products in 16 bits, which saturate.

    The products of 255 and 127 are summed over different numbers of rows, because one row has a kernel of its
    own on some CPUs.
    """
    weight = np.full((DEPTH, 64), 127, np.int8)
    for rows in (1, 3, 64):
        model = SmallModel((rows, DEPTH), dtype="UINT8")
        made = model.finished(model.plain("MatMulInteger", model.input, weight), "INT32")
        values = np.full((rows, DEPTH), 255, np.uint8)
        (found,) = open_session(made, threads=1).run(None, {"x": values})
        if (found != DEPTH * 255 * 127).any():
            return True
    return False


def tiny(count: int) -> ir.Model:
    """Return a chain of operators on one value, whose time is that of calls alone."""
    model = SmallModel((1,))
    value = model.start
    for _ in range(count):
        value = model.op("Neg", value)
        value = model.op("Floor", value)  # two Negs are nothing
    return model.finished(value)
