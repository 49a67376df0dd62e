"""Max pools whose integer kernel is slow in their tensor layout.

Behind a convolution the runtime (1.31) runs integer pools with channels last. A Clip of stored integers, the
written form of a HardSigmoid, ends that layout until the next convolution. Without a convolution behind it,
the pool takes about 30 times as long as in float (266 instead of 8 us).
"""

from collections.abc import Callable, Container, Iterable

import onnx_ir as ir

from onnxq.plan.operators import OPERATORS, Role

SLOW_POOL = "its integer kernel is slow here: it is behind a HardSigmoid and no convolution follows"
"""Reason of a slow pool."""


def slow_pools(graph: ir.Graph, refusals: Container[ir.Node]) -> list[ir.Node]:
    """Return the slow pools of a graph.

    Args:
        graph: the graph.
        refusals: nodes that stay float.
    """
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
    """Tell whether integer operators other than anchors connect a node with a wanted one.

    Args:
        start: the first node.
        refusals: nodes that stay float.
        following: the next nodes of a node: predecessors or successors.
        wanted: tells whether a node is wanted.
    """
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
