"""What nodes cost in float: products, and groups of elementwise nodes."""

import math
from collections.abc import Sequence

from onnxq.cost.model import Costs
from onnxq.cost.placement import slowdowns, slower
from onnxq.graph.edit import sizes
from onnxq.graph.macs import ShapeByName, node_macs
from onnxq.plan.plan import Plan
from onnxq.plan.shapes import planned_shapes
from onnxq.search.candidates import Variant
from onnxq.search.mixed_precision import FloatCost, grouped
from onnxq.search.settings import SearchSettings
from onnxq.types import Feeds

ELEMENTWISE = frozenset({"HardSigmoid", "LeakyRelu", "Mul", "Sigmoid"})
"""Elementwise operators whose integer kernels round values that are small beside the output's range."""


def elementwise_groups(
    plan: Plan, shapes: ShapeByName, costs: Sequence[Costs], settings: SearchSettings
) -> dict[tuple[str, ...], FloatCost]:
    """Group neighbouring elementwise int8 nodes, such as x sigmoid(x), with the time that they cost in float.

    In a deep network their kernels round small values again and again, and no product shows this noise.
    """
    # neighbours belong to one group
    names = [name for name, planned in plan.nodes.items() if planned.node.op_type in ELEMENTWISE]
    first = {name: name for name in names}
    for name in names:
        for value in plan.nodes[name].node.inputs:
            before = value.producer() if value is not None else None
            if before is not None and (before.name or "") in first:
                first[name] = first[before.name or ""]
    neighbours: dict[str, list[str]] = {}
    for name in names:
        neighbours.setdefault(first[name], []).append(name)
    # few groups, with their cost
    parts = grouped(list(neighbours.values()), most=settings.max_elementwise_groups, settings=settings)
    groups = [tuple(name for members in part for name in members) for part in parts]
    groups = list(dict.fromkeys(groups))
    times = slower(plan, shapes, costs, groups) if costs else [0.0] * len(groups)
    return {members: FloatCost(0.0, 0.0, time) for members, time in zip(groups, times, strict=True)}


def float_costs_of(variant: Variant, feeds: Feeds, costs: Sequence[Costs]) -> dict[str, FloatCost]:
    """Return the cost of each planned product in float.

    Where the time is unknown, the product's share of the MACs stands for it.
    """
    shapes = planned_shapes(variant.model, variant.plan, feeds)
    anchors = {name: planned.node for name, planned in variant.plan.anchors.items()}
    macs = {name: node_macs(node, shapes) for name, node in anchors.items()}
    weights = {name: math.prod(sizes(node.inputs[1]) or ()) for name, node in anchors.items()}
    total_macs, total_weights = max(1, sum(macs.values())), max(1, sum(weights.values()))
    times = slowdowns(variant.plan, shapes, costs) if costs else {}
    result = {}
    for name in anchors:
        mac_share = macs[name] / total_macs
        result[name] = FloatCost(mac_share, weights[name] / total_weights, times.get(name, mac_share))
    return result
