"""Max pools whose integer kernel would run outside the layout that it is fast in.

Behind a convolution the runtime (1.31) has integer pools with the channels last. A Clip of stored integers, as a
HardSigmoid is written, stops that, unless a convolution behind the pool asks for it again: between the two a pool takes
some thirty times as long as in float (266 for 8 us).
"""

from collections.abc import Callable, Container, Iterable

import onnx_ir as ir

from onnxq.plan.operators import OPERATORS, Role

SLOW_POOL = "its integer kernel is slow here: between a HardSigmoid and no convolution"


def slow_pools(graph: ir.Graph, refusals: Container[ir.Node]) -> list[ir.Node]:
    """Those of a graph, of which `refusals` stay float."""
    pools = [node for node in graph if node.op_type == "MaxPool" and node not in refusals]
    return [
        pool
        for pool in pools
        if _meets(
            pool,
            refusals,
            lambda node: node.predecessors(),
            lambda node: OPERATORS[node.op_type].role is Role.RAMP,
        )
        and not _meets(pool, refusals, lambda node: node.successors(), lambda node: node.op_type == "Conv")
    ]


def _meets(
    start: ir.Node,
    refusals: Container[ir.Node],
    following: Callable[[ir.Node], Iterable[ir.Node]],
    wanted: Callable[[ir.Node], bool],
) -> bool:
    """Whether integer operators lead from a node to one of a kind, with no other product or convolution between."""
    seen, waiting = set(), list(following(start))
    while waiting:
        node = waiting.pop()
        if node in seen or node in refusals or node.op_type not in OPERATORS:
            continue
        seen.add(node)
        if wanted(node):
            return True
        if OPERATORS[node.op_type].role is not Role.ANCHOR:
            waiting += following(node)
    return False
