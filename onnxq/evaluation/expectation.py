"""Latency that the cost model of a target expects of a float model and of its int8 files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnxq.cost.model import Costs
from onnxq.cost.placement import whole_ns
from onnxq.cost.target import TargetCpus
from onnxq.evaluation.verification import integer_nodes
from onnxq.graph.files import load
from onnxq.graph.macs import ShapeByName
from onnxq.normalize.passes import normalize
from onnxq.plan.operators import Role
from onnxq.plan.plan import Plan, make_plan
from onnxq.plan.shapes import planned_shapes
from onnxq.types import Feeds

FREE = frozenset({"Constant", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Clip", "Relu"})
"""Operators that take no time, or whose time counts at the operator before them."""


@dataclass(frozen=True)
class Expectation:
    """Expected latency of one model on one CPU of the target.

    cpu          name of the CPU
    batch        batch size
    threads      intra-op threads to which the costs belong
    expected_ms  sum of the expected kernel times and conversions, ms; None if the file is of another model
    measured_ms  median latency on this machine at this batch size and thread count, ms; None if it was not
                 measured
    float_nodes  quantizable nodes that are in float
    uncounted    nodes without a row in the table, by operator type: they count as 0 ms
    """

    model: str
    cpu: str
    batch: int
    threads: int
    expected_ms: float | None
    measured_ms: float | None
    float_nodes: int
    uncounted: dict[str, int]


class Expected:
    """The plan of a float model, and the times that a target expects of the model's files."""

    def __init__(self, float_model: Path, target: TargetCpus) -> None:
        self.model = normalize(load(float_model))
        self.plan, self.target = make_plan(self.model), target

    def of(self, paths: Sequence[Path], feeds: Feeds, batch: int) -> list[Expectation]:
        """Return what is expected of each file on each CPU, without measured times."""
        shapes = planned_shapes(self.model, self.plan, feeds)
        found = []
        for path in paths:
            floats = floats_of(self.plan, integer_nodes(path))
            for cpu, threads, costs in zip(
                self.target.cpus, self.target.threads, self.target.costs, strict=True
            ):
                ms = None if floats is None else whole_ns(self.plan, shapes, costs, floats) / 1e6
                missing = uncounted(self.model, shapes, costs)
                found.append(
                    Expectation(str(path), cpu, batch, threads, ms, None, len(floats or ()), missing)
                )
        return found


def floats_of(plan: Plan, integer: set[str]) -> tuple[str, ...] | None:
    """Return the planned nodes that a file computes in float; None if its integer nodes are not the plan's.

    Args:
        plan: the plan of the float model.
        integer: names of the nodes that run in integer kernels. Views have no such kernel: they are integers
            where the node before them is, or without one, where a node behind them is.
    """
    if integer and not integer & plan.nodes.keys():
        return None
    producers = {
        id(value): name for name, each in plan.nodes.items() for value in (*each.node.outputs, each.output)
    }
    moving = {name for name, each in plan.nodes.items() if each.row.role in (Role.VIEW, Role.RAMP)}
    found = {name for name in plan.nodes if name not in moving and name in integer}
    for name in plan.nodes:
        if name not in moving:
            continue
        node = plan.nodes[name].node
        before = producers.get(id(node.inputs[0]))
        behind = {use.node.name or "" for use in node.outputs[0].uses()}
        if before in found or (before is None and behind & (integer | moving)):
            found.add(name)
    return tuple(name for name in plan.nodes if name not in found)


def uncounted(model: ir.Model, shapes: ShapeByName, costs: Costs) -> dict[str, int]:
    """Count the nodes of kinds that have no row in a table, by operator type."""
    counts: Counter[str] = Counter()
    for node in model.graph:
        kind, _ = costs.work_of(node, shapes) or ("", None)
        if f"float {kind}" not in costs.table and node.op_type not in FREE:
            counts[node.op_type] += 1
    return dict(sorted(counts.items()))
