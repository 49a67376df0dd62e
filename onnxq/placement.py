"""Which planned nodes are faster in float: kernels and conversions weighed against each other.

Every planned node has a cost in float and one on integers, every tensor between the two forms a
conversion. The cheapest assignment is a minimum cut (source side: integers, sink side: float).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from onnxq.costs import Costs
from onnxq.formats.run_time import among_floats
from onnxq.macs import ShapeByName
from onnxq.mincut import INFINITE, Network
from onnxq.model.edit import is_constant, sizes
from onnxq.operators import Role
from onnxq.plan import Plan, PlannedNode
from onnxq.refusals import clamp_bounds

REASON = "kept float for speed: its integer form, with the conversions around it, takes longer"
WORTH = 0.01
"""Share of the planned nodes' expected time that leaving nodes float has to save."""
LEAST_TIME, LEAST_SIZE = 0.03, 0.1
"""Shares of the time and of the size, in half precision, of which integers have to save one where other nodes are left float."""
LEAST_NS = 10_000
"""Models that take less than this in float are left on integers: a call of the runtime itself takes as long, and size counts."""
SMALL_NS, WORTH_SMALL = 100_000, 0.1
"""In models that take less than this in float, calls count more than sizes, and the tables err more: so much has to be saved. Products
whose ranges are found at run time stay on integers there, for what that form saves beside, biases and attention, no table knows."""


@dataclass(frozen=True)
class Placement:
    """Nodes to leave float, and the expected nanoseconds of all planned nodes with and without that, and in float."""

    floats: tuple[str, ...]
    integer_ns: float
    placed_ns: float
    float_ns: float


def place(plan: Plan, shapes: ShapeByName, costs: Costs) -> Placement:
    """The planned nodes that are expected to be faster in float; `shapes` of all their values."""
    network = Network()
    numbers = {name: network.node() for name in plan.nodes}
    times = {name: _times(planned, shapes, costs) for name, planned in plan.nodes.items()}
    for name, (integer, as_float) in times.items():
        network.edge(numbers[name], 1, integer)
        network.edge(0, numbers[name], as_float)
    conversions = _conversions(plan, shapes, costs)
    for each in conversions:
        each.add(network, numbers)
    side = network.source_side()
    floats = tuple(name for name, number in numbers.items() if number not in side)
    kept = set(floats)
    whole = [sum(each[i] for each in times.values()) for i in (0, 1)]
    integer = whole[0] + sum(each.paid(set()) for each in conversions)
    placed = sum(each[1] if name in kept else each[0] for name, each in times.items()) + sum(each.paid(kept) for each in conversions)
    small = whole[1] < SMALL_NS
    too_little = placed > (1 - (WORTH_SMALL if small else WORTH)) * integer
    if too_little or whole[1] < LEAST_NS or (small and among_floats(plan)):
        return Placement((), integer, integer, whole[1])
    return Placement(floats, integer, placed, whole[1])


@dataclass(frozen=True)
class Savings:
    """Shares of the whole model's expected time, in float, and of its size, in half precision, that a plan's integers save.

    small  whether the model is one of those of which the tables say little: size does not count then
    """

    time: float
    size: float
    small: bool = False

    @property
    def too_little(self) -> bool:
        """Whether they are not worth their noise."""
        return self.time < WORTH_SMALL if self.small else self.time < LEAST_TIME and self.size < LEAST_SIZE


def savings(plan: Plan, shapes: ShapeByName, costs: Costs) -> Savings:
    """What the planned nodes' integers save."""
    found = place(plan, shapes, costs)
    others = [costs.work_of(node, shapes) for node, _ in plan.floats.values()]
    rest = sum(costs.kernel_ns("float", *other) for other in others if other is not None)
    integers = _weights(planned.node for planned in plan.nodes.values())
    share = integers / max(1, integers + _weights(node for node, _ in plan.floats.values()))
    whole = found.float_ns + rest
    return Savings((found.float_ns - found.integer_ns) / (whole or 1.0), share / 2, LEAST_NS < whole < SMALL_NS)


def _weights(nodes: Iterable[ir.Node]) -> int:
    products = [node for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul") and is_constant(node.inputs[1])]
    return sum(math.prod(sizes(node.inputs[1]) or ()) for node in products)


def slowdowns(plan: Plan, shapes: ShapeByName, costs: Costs) -> dict[str, float]:
    """By how much the planned nodes' expected time grows with each alone in float, as a share; conversions are left out."""
    times = {name: _times(planned, shapes, costs) for name, planned in plan.nodes.items()}
    whole = sum(integer for integer, _ in times.values())
    return {name: (as_float - integer) / whole for name, (integer, as_float) in times.items() if whole and integer}


def _times(planned: PlannedNode, shapes: ShapeByName, costs: Costs) -> tuple[float, float]:
    """Nanoseconds on integers and in float."""
    if planned.name in costs.nodes:
        return costs.nodes[planned.name]
    found = costs.work_of(planned.node, shapes)
    if found is None:
        return 0.0, 0.0
    kind, work = found
    if planned.row.role is Role.RAMP:
        return costs.kernel_ns("integer", "Concat", work), costs.kernel_ns("float", "HardSigmoid", work)
    as_float = costs.kernel_ns("float", kind, work)
    clamp = planned.output.producer()
    if clamp is not None and clamp is not planned.node and planned.node.op_type != "Conv":  # a Conv takes its clamp in
        as_float += costs.kernel_ns("float", "Relu", work)
    return costs.kernel_ns("integer", kind, work), as_float


@dataclass(frozen=True)
class _Conversion:
    """What a tensor costs where its producer and a consumer have different forms.

    producer   the planned node that gives it, None for what is float anyway
    consumers  planned nodes that take it as integers
    outside    whether something that is float anyway takes it
    """

    producer: str | None
    consumers: tuple[str, ...]
    outside: bool
    to_integers: float
    to_float: float

    def add(self, network: Network, numbers: dict[str, int]) -> None:
        start = numbers[self.producer] if self.producer is not None else 1
        if self.consumers:
            quantized = network.node()
            network.edge(quantized, start, self.to_integers)
            for name in self.consumers:
                network.edge(numbers[name], quantized, INFINITE)
        if self.producer is None:
            return
        if self.outside:
            network.edge(start, 1, self.to_float)
        elif self.consumers:
            dequantized = network.node()
            network.edge(start, dequantized, self.to_float)
            for name in self.consumers:
                network.edge(dequantized, numbers[name], INFINITE)

    def paid(self, floats: set[str]) -> float:
        """The cost with these nodes in float."""
        producer_float = self.producer is None or self.producer in floats
        if producer_float:
            return self.to_integers if any(name not in floats for name in self.consumers) else 0.0
        return self.to_float if self.outside or any(name in floats for name in self.consumers) else 0.0


def _conversions(plan: Plan, shapes: ShapeByName, costs: Costs) -> list[_Conversion]:
    producers = {planned.output.name: name for name, planned in plan.nodes.items() if planned.row.role is not Role.VIEW}
    producers |= {v.name: name for name, p in plan.nodes.items() if p.row.role is Role.VIEW for v in p.node.outputs}
    found = []
    for planned in plan.tensors.values():
        elements = math.prod(shapes.get(planned.name) or ())
        consumers, outside = [], planned.value.is_graph_output()
        for use in planned.value.uses():
            taker = plan.nodes.get(use.node.name or "")
            if taker is not None and use.idx in taker.activations:
                consumers.append(use.node.name or "")
            elif not _absorbed(plan, use.node):
                outside = True
        producer = producers.get(planned.name)
        if producer is not None and not plan.nodes[producer].integer_output and plan.nodes[producer].row.role is Role.ANCHOR:
            outside = False  # its kernel gives float at no cost
        both = (costs.conversion_ns(elements, to_integers=integers) for integers in (True, False))
        found.append(_Conversion(producer, tuple(dict.fromkeys(consumers)), outside, *both))
    return found


def _absorbed(plan: Plan, node: ir.Node) -> bool:
    """Whether a clamp disappears into the node before it."""
    before = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    planned = plan.nodes.get(before.name or "") if before is not None else None
    return planned is not None and clamp_bounds(node) is not None and planned.output is node.outputs[0]
