"""Signal front ends inside a graph: spectra whose small values matter as much as large ones.

A short-time Fourier transform as Conv, for example, and the mel filters behind it have a range of many
decades, too wide for 8 bits. Such products feed a Log through powers, sums and views alone.
"""

from collections.abc import Iterable

import onnx_ir as ir

SIGNAL_FRONT_END = "feeds a logarithm: a signal front end, whose range is too wide for 8 bits"
"""Reason of the products of a front end."""
BETWEEN = frozenset(
    {"Pow", "Mul", "Add", "Abs", "Sqrt", "Max", "Clip", "ReduceSum", "ReduceSumSquare", "ReduceL2",
     "Identity", "Cast", "Div", "Slice", "Split", "Concat", "Gather", "Reshape", "Transpose", "Squeeze",
     "Unsqueeze", "Flatten", "Pad"}
)  # fmt: skip
"""Operators between the products of a front end and its Log."""
PRODUCTS = frozenset({"Conv", "MatMul", "Gemm"})


def front_ends(graph: Iterable[ir.Node]) -> set[ir.Node]:
    """Return the products of a graph that belong to a front end."""
    found: set[ir.Node] = set()
    logs = [node for node in graph if node.op_type == "Log" and not node.domain]
    waiting = [value.producer() for node in logs for value in node.inputs if value is not None]
    seen: set[ir.Node] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or node.domain or node.op_type not in BETWEEN | PRODUCTS:
            continue
        seen.add(node)
        if node.op_type in PRODUCTS:
            found.add(node)
        waiting += [value.producer() for value in node.inputs if value is not None]
    return found
