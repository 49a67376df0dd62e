"""Placement: the planned nodes that are faster in float, with the times of kernels and conversions.

Each planned node has a time in float and one on integers; each tensor between the two forms costs a
conversion. The fastest assignment is a minimum cut (source side: integers, sink side: float).
"""

import functools
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxq.cost.minimum_cut import INFINITE, Network
from onnxq.cost.model import Costs
from onnxq.cost.node_times import times_of
from onnxq.graph.edit import is_constant, sizes
from onnxq.graph.macs import ShapeByName
from onnxq.plan.constraints import clamp_bounds
from onnxq.plan.operators import Role
from onnxq.plan.plan import Plan
from onnxq.plan.products import among_floats

SLOWEST_WEIGHTS = (0.5, 1.0)
"""Weights tried for each CPU that the mean of several CPUs makes slower than in float."""
LEAST_SAVING = 0.01
"""Share of the planned nodes' expected time that float nodes must save."""
LEAST_TIME, LEAST_SIZE = 0.03, 0.2
"""Shares of the time and of the half-precision size.

Integers must save one of them if other nodes stay in float.
"""
LEAST_NS = 10_000
"""Nanoseconds in float below which a model stays on integers.

A call of the runtime takes as long, and size counts.
"""
SMALL_NS, LEAST_SAVING_SMALL = 100_000, 0.1
"""Nanoseconds in float below which a model is small, and the share that float nodes must save there.

In small models calls count more than sizes, and the tables err more. Products with run-time ranges stay on
integers: no table knows their savings on biases and attention.
"""


@dataclass(frozen=True)
class Expected:
    """Nanoseconds of all planned nodes on one CPU: on integers, as placed, and in float, with conversions."""

    integer: float
    placed: float
    float: float


@dataclass(frozen=True)
class Placement:
    """Nodes to leave in float, and the expected times on each CPU."""

    floats: tuple[str, ...]
    expected: tuple[Expected, ...]


def place(plan: Plan, shapes: ShapeByName, cpus: Sequence[Costs]) -> Placement:
    """Find the planned nodes that are expected to be faster in float.

    With several CPUs, the mean of their times relative to float counts, as long as none is slower than in
    float.

    Args:
        plan: the planned nodes.
        shapes: static shapes of all their values.
        cpus: costs on each CPU of the target.
    """
    network = _Network(plan, shapes, cpus)
    even = [1 / len(cpus)] * len(cpus)
    floats = network.cut(even)
    slow = [i for i, slowness in enumerate(network.slowness(floats)) if slowness > 1]
    if slow:
        skewed = [
            [(1 - weight) * each + weight * (i == slowest) for i, each in enumerate(even)]
            for slowest in slow
            for weight in SLOWEST_WEIGHTS
        ]
        tried = [floats, *map(network.cut, skewed), network.names]
        floats = min(tried, key=lambda found: network.preference(found))
    found, unplaced = network.expected(floats), network.expected(())
    small = min(each.float for each in found) < SMALL_NS
    least = 1 - (LEAST_SAVING_SMALL if small else LEAST_SAVING)
    too_little = all(each.placed > least * each.integer for each in found)
    if too_little or min(each.float for each in found) < LEAST_NS or (small and among_floats(plan)):
        return Placement((), unplaced)
    return Placement(floats, found)


def expected(
    plan: Plan, shapes: ShapeByName, cpus: Sequence[Costs], floats: Sequence[str]
) -> tuple[Expected, ...]:
    """Return the expected times on each CPU with these planned nodes in float."""
    return _Network(plan, shapes, cpus).expected(floats)


def whole_ns(plan: Plan, shapes: ShapeByName, costs: Costs, floats: Sequence[str]) -> float:
    """Return the expected time of the whole model with these planned nodes in float, ns."""
    (found,) = expected(plan, shapes, [costs], floats)
    return found.placed + _rest(plan, shapes, costs)


class _Network:
    """Times of nodes and conversions on each CPU, and minimum cuts."""

    def __init__(self, plan: Plan, shapes: ShapeByName, cpus: Sequence[Costs]) -> None:
        self.names = tuple(plan.nodes)
        self.conversions = _conversions(plan, shapes)
        self.nodes = [
            {name: times_of(planned, shapes, costs) for name, planned in plan.nodes.items()} for costs in cpus
        ]
        self.prices = [[each.prices(costs) for each in self.conversions] for costs in cpus]

    def cut(self, weights: Sequence[float]) -> tuple[str, ...]:
        """Return the float nodes of the fastest assignment, each CPU's times relative to float weighted."""
        whole = [self.as_float(cpu) or 1.0 for cpu in range(len(weights))]
        scales = [weight * whole[0] / each for weight, each in zip(weights, whole, strict=True)]

        def mixed(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
            both = list(zip(*pairs, strict=True))
            integer, as_float = (
                sum(scale * value for scale, value in zip(scales, each, strict=True)) for each in both
            )
            return integer, as_float

        network = Network()
        numbers = {name: network.node() for name in self.names}
        for name, number in numbers.items():
            integer, as_float = mixed(times[name] for times in self.nodes)
            network.terminals(number, from_source=as_float, to_sink=integer)
        for each, *prices in zip(self.conversions, *self.prices, strict=True):
            each.add(network, numbers, *mixed(prices))
        side = network.source_side()
        return tuple(name for name, number in numbers.items() if number not in side)

    def as_float(self, cpu: int) -> float:
        """Return the nanoseconds of all nodes in float."""
        return sum(as_float for _, as_float in self.nodes[cpu].values())

    def expected(self, floats: Sequence[str]) -> tuple[Expected, ...]:
        """Return the expected times on each CPU with these nodes in float."""
        cpus = range(len(self.nodes))
        return tuple(
            Expected(self._placed(cpu, set()), self._placed(cpu, set(floats)), self.as_float(cpu))
            for cpu in cpus
        )

    def _placed(self, cpu: int, floats: set[str]) -> float:
        nodes = sum(times[name in floats] for name, times in self.nodes[cpu].items())
        return nodes + sum(
            each.paid(floats, *prices)
            for each, prices in zip(self.conversions, self.prices[cpu], strict=True)
        )

    def slowness(self, floats: Sequence[str]) -> list[float]:
        """Return the time on each CPU relative to float."""
        return [each.placed / (each.float or 1.0) for each in self.expected(floats)]

    def preference(self, floats: Sequence[str]) -> tuple[float, float]:
        """Return the sort key of an assignment: first no CPU slower than float, then the mean."""
        slowness = self.slowness(floats)
        return max(1.0, *slowness), sum(slowness)


@dataclass(frozen=True)
class Savings:
    """Savings of a plan's integers, as shares of the whole model.

    time   of the expected float time
    size   of the half-precision size
    small  whether the model is too small for the tables to be exact: size does not count then
    """

    time: float
    size: float
    small: bool = False

    @property
    def too_little(self) -> bool:
        """Whether the savings do not justify the quantization noise."""
        return (
            self.time < LEAST_SAVING_SMALL
            if self.small
            else self.time < LEAST_TIME and self.size < LEAST_SIZE
        )


def savings(plan: Plan, shapes: ShapeByName, cpus: Sequence[Costs]) -> Savings:
    """Return the savings of the planned nodes' integers, on the CPU with the least."""
    integers = _weights(planned.node for planned in plan.nodes.values())
    share = integers / max(1, integers + _weights(node for node, _ in plan.floats.values()))
    found = expected(plan, shapes, cpus, ())
    wholes = [each.float + _rest(plan, shapes, costs) for each, costs in zip(found, cpus, strict=True)]
    time = min(
        (each.float - each.integer) / (whole or 1.0) for each, whole in zip(found, wholes, strict=True)
    )
    return Savings(time, share / 2, LEAST_NS < min(wholes) < SMALL_NS)


def _rest(plan: Plan, shapes: ShapeByName, costs: Costs) -> float:
    """Return the nanoseconds of all nodes that are in float anyway."""
    others = [costs.work_of(node, shapes) for node, _ in plan.floats.values()]
    return sum(costs.kernel_ns("float", *other) for other in others if other is not None)


def _weights(nodes: Iterable[ir.Node]) -> int:
    products = [
        node for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul") and is_constant(node.inputs[1])
    ]
    return sum(math.prod(sizes(node.inputs[1]) or ()) for node in products)


def slowdowns(plan: Plan, shapes: ShapeByName, cpus: Sequence[Costs]) -> dict[str, float]:
    """Return the mean relative increase of the planned nodes' time with each node alone in float.

    Conversions are not counted.
    """
    found = dict.fromkeys(plan.nodes, 0.0)
    for costs in cpus:
        times = {name: times_of(planned, shapes, costs) for name, planned in plan.nodes.items()}
        whole = sum(integer for integer, _ in times.values()) or 1.0
        for name, (integer, as_float) in times.items():
            found[name] += (as_float - integer) / whole / len(cpus) if integer else 0.0
    return found


def slower(
    plan: Plan, shapes: ShapeByName, cpus: Sequence[Costs], groups: Sequence[Sequence[str]]
) -> list[float]:
    """Return the mean relative increase of the planned nodes' time with each group in float.

    Conversions are counted; the mean is over the CPUs.
    """
    network = _Network(plan, shapes, cpus)

    def mean(floats: Sequence[str]) -> float:
        return sum(each.placed / (each.integer or 1.0) for each in network.expected(floats)) / len(cpus)

    return [mean(group) - 1.0 for group in groups]


@dataclass(frozen=True)
class _Conversion:
    """Conversions of a tensor between a producer and consumers of different forms.

    producer   the planned node that produces the tensor, None if that is in float anyway
    consumers  planned nodes that read it as integers
    outside    whether a consumer is in float anyway
    shape      of the tensor
    sums       number of Add and Mul nodes of two integer tensors in a chain behind it; after a float Conv,
               the layout is not that of integer ones: the runtime transposes for each of them, and back
    """

    producer: str | None
    consumers: tuple[str, ...]
    outside: bool
    shape: tuple[int, ...]
    sums: int

    def prices(self, costs: Costs) -> tuple[float, float]:
        """Return the nanoseconds of a conversion to integers and of one to float."""
        turned = 2 * self.sums * costs.transpose_ns(self.shape)
        both = [costs.conversion_ns(self.shape, to_integers=to_integers) for to_integers in (True, False)]
        return both[0] + turned, both[1]

    def add(self, network: Network, numbers: dict[str, int], to_integers: float, to_float: float) -> None:
        """Add the conversions to a network."""
        start = numbers[self.producer] if self.producer is not None else 1
        if self.consumers:
            quantized = network.node()
            network.edge(quantized, start, to_integers)
            for name in self.consumers:
                network.edge(numbers[name], quantized, INFINITE)
        if self.producer is None:
            return
        if self.outside:
            network.edge(start, 1, to_float)
        elif self.consumers:
            dequantized = network.node()
            network.edge(start, dequantized, to_float)
            for name in self.consumers:
                network.edge(dequantized, numbers[name], INFINITE)

    def paid(self, floats: set[str], to_integers: float, to_float: float) -> float:
        """Return the time of the conversions with these nodes in float."""
        producer_float = self.producer is None or self.producer in floats
        if producer_float:
            return to_integers if any(name not in floats for name in self.consumers) else 0.0
        return to_float if self.outside or any(name in floats for name in self.consumers) else 0.0


def _conversions(plan: Plan, shapes: ShapeByName) -> list[_Conversion]:
    producers = {
        planned.output.name: name for name, planned in plan.nodes.items() if planned.row.role is not Role.VIEW
    }
    producers |= {
        v.name: name for name, p in plan.nodes.items() if p.row.role is Role.VIEW for v in p.node.outputs
    }
    found, behind = [], _sums_behind(plan)
    for planned in plan.tensors.values():
        shape = tuple(shapes.get(planned.name) or ())
        consumers, outside = [], planned.value.is_graph_output()
        for use in planned.value.uses():
            taker = plan.nodes.get(use.node.name or "")
            if taker is not None and use.idx in taker.activations:
                consumers.append(use.node.name or "")
            elif not _absorbed(plan, use.node):
                outside = True
        producer = producers.get(planned.name)
        if (
            producer is not None
            and not plan.nodes[producer].integer_output
            and plan.nodes[producer].row.role is Role.ANCHOR
        ):
            outside = False  # its kernel has a free float output
        found.append(
            _Conversion(
                producer,
                tuple(dict.fromkeys(consumers)),
                outside,
                shape,
                _all_bits(behind.get(name, 0) for name in consumers) if producer is not None else 0,
            )
        )
    return found


def _sums_behind(plan: Plan) -> dict[str, int]:
    """Return for each node the Add and Mul nodes of two integer tensors in the chain from it on, as bits."""
    behind: dict[str, int] = {}
    for number, (name, planned) in enumerate(reversed(plan.nodes.items())):
        if planned.row.role is Role.ARITHMETIC and len(planned.activations) > 1:
            found = 1 << number
            for use in planned.output.uses():
                found |= behind.get(use.node.name or "", 0)
            behind[name] = found
    return behind


def _all_bits(masks: Iterable[int]) -> int:
    """Count the bits that are set in any of the masks."""
    return functools.reduce(operator.or_, masks, 0).bit_count()


def _absorbed(plan: Plan, node: ir.Node) -> bool:
    """Whether a clamp is absorbed by the node before it."""
    before = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    planned = plan.nodes.get(before.name or "") if before is not None else None
    return planned is not None and clamp_bounds(node) is not None and planned.output is node.outputs[0]
