"""Signal front ends inside a graph: spectra whose small values count as much as large ones.

A product whose result reaches a Log with nothing between but powers, sums and views (a short-time
Fourier transform as Conv, the mel filters behind it) has a range of many decades, which no integer
scale holds.
"""

from collections.abc import Iterable

import onnx_ir as ir

SIGNAL_FRONT_END = "feeds a logarithm: a signal front end, whose range no integer scale holds"
THROUGH = frozenset(
    {"Pow", "Mul", "Add", "Abs", "Sqrt", "Max", "Clip", "ReduceSum", "ReduceSumSquare", "ReduceL2", "Identity", "Cast", "Div",
     "Slice", "Split", "Concat", "Gather", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Pad"}
)  # fmt: skip
PRODUCTS = frozenset({"Conv", "MatMul", "Gemm"})


def front_ends(graph: Iterable[ir.Node]) -> set[ir.Node]:
    """The products of a graph that belong to a front end."""
    found: set[ir.Node] = set()
    logs = [node for node in graph if node.op_type == "Log" and not node.domain]
    waiting = [value.producer() for node in logs for value in node.inputs if value is not None]
    seen: set[ir.Node] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or node.domain or node.op_type not in THROUGH | PRODUCTS:
            continue
        seen.add(node)
        if node.op_type in PRODUCTS:
            found.add(node)
        waiting += [value.producer() for value in node.inputs if value is not None]
    return found
