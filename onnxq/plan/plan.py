"""The plan: nodes that become integer kernels, tensors that carry integers, and reasons for float nodes.

Integer regions grow around anchors (Conv, MatMul, Gemm). Another operator joins a region if it has an integer
input and an integer operator uses its result: then no value is converted to float and back. The plan contains
tensors and nodes, but no numbers.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import onnx_ir as ir

from onnxq.errors import ModelError
from onnxq.graph.edit import body_owners, is_constant, only_use
from onnxq.graph.fusions import gelu_nodes
from onnxq.graph.shapes import opset_of
from onnxq.plan.constraints import Range, clamp_bounds, ramp_factors, refusal
from onnxq.plan.operators import KNOWN_RANGES, OPERATORS, Operator, Role
from onnxq.plan.pooling import SLOW_POOL, slow_pools
from onnxq.plan.reasons import Cause, FloatReason
from onnxq.plan.replaceable_inputs import REPLACEABLE, behind_replaceable
from onnxq.plan.signal_front_ends import SIGNAL_FRONT_END, front_ends
from onnxq.runtime.inner_values import OBSERVABLE

GELU = "belongs to a Gelu, for which the runtime has one float kernel"
"""Reason of the nodes of a Gelu."""


@dataclass(frozen=True)
class Selection:
    """The user's selection of nodes to quantize; an empty field means no restriction.

    MatMul and Gemm count as one type, because normalization replaces one by the other where there is a bias.

    include   names or globs of the nodes to quantize
    exclude   names or globs of nodes that stay float
    op_types  operator types to quantize
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    op_types: tuple[str, ...] = ()

    def refusal(self, node: ir.Node) -> str | None:
        """Return the reason why the user's selection keeps a node float, or None."""
        name = node.name or ""
        if any(fnmatchcase(name, pattern) for pattern in self.exclude):
            return "excluded by --exclude"
        if self.include and not any(fnmatchcase(name, pattern) for pattern in self.include):
            return "not among --include"
        if self.op_types and _alike(node.op_type).isdisjoint(self.op_types):
            return "not among --op-types"
        return None

    def check(self, nodes: Iterable[tuple[str, str]]) -> None:
        """Check that each pattern and type matches a node of a model.

        Args:
            nodes: (name, type) of the model's nodes.

        Raises:
            ModelError: a pattern or type matches none.
        """
        known = list(nodes)
        for option, patterns in (("--include", self.include), ("--exclude", self.exclude)):
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name, _ in known):
                    raise ModelError(f"{option} {pattern}: no node of the model has such a name")
        for op_type in self.op_types:
            if not any(op_type in _alike(found) for _, found in known):
                raise ModelError(
                    f"--op-types {op_type}: the model has no such operator; onnxq inspect lists them"
                )


def _alike(op_type: str) -> set[str]:
    return {"MatMul", "Gemm"} if op_type in ("MatMul", "Gemm") else {op_type}


@dataclass(frozen=True)
class PlannedNode:
    """A node that becomes an integer kernel.

    node            the node
    row             its row of the operator table
    activations     indices of the inputs that carry integers at run time
    constants       indices of the constant operands, which are quantized like activations
    output          value that carries the integer result: behind the clamp, if the node absorbs one
    integer_output  whether the kernel needs a quantized result; otherwise the consumers decide
    run_time        whether the range of its activation is found at run time: its result is float
    """

    node: ir.Node
    row: Operator
    activations: tuple[int, ...]
    constants: tuple[int, ...]
    output: ir.Value
    integer_output: bool
    run_time: bool = False

    @property
    def name(self) -> str:
        """The node's name, unique after normalization."""
        return self.node.name or ""


@dataclass(frozen=True)
class Ramp:
    """clip(alpha x + beta, 0, 1) of another tensor.

    alpha   factor
    beta    offset
    source  name of the tensor that has the parameters of x
    """

    alpha: float
    beta: float
    source: str


@dataclass(frozen=True)
class PlannedTensor:
    """A value that carries integers.

    value   the value
    source  name of the value that has its parameters: another one behind views, otherwise itself
    bounds  range of the clamp that produces it; the clipping range lies inside
    known   range that holds for every input and replaces calibration
    ramp    ramp of another tensor's integers; it also replaces calibration
    """

    value: ir.Value
    source: str
    bounds: Range | None = None
    known: Range | None = None
    ramp: Ramp | None = None

    @property
    def name(self) -> str:
        """The value's name."""
        return self.value.name or ""


@dataclass
class Plan:
    """The plan of a model.

    nodes    nodes that become integer kernels, by name
    tensors  values that carry integers, by name
    floats   other nodes and the reason why they stay float, by name
    """

    nodes: dict[str, PlannedNode] = field(default_factory=dict)
    tensors: dict[str, PlannedTensor] = field(default_factory=dict)
    floats: dict[str, tuple[ir.Node, FloatReason]] = field(default_factory=dict)

    @property
    def anchors(self) -> "dict[str, PlannedNode]":
        """Planned products and convolutions, by name."""
        return {name: planned for name, planned in self.nodes.items() if planned.row.role is Role.ANCHOR}

    def sources(self) -> list[str]:
        """Return the names of the values whose range has to be calibrated."""
        return [
            t.name for t in self.tensors.values() if t.source == t.name and t.known is None and t.ramp is None
        ]


def make_plan(
    model: ir.Model,
    selection: Selection | None = None,
    kept: Mapping[str, FloatReason] | None = None,
    run_time: Collection[str] = (),
) -> Plan:
    """Plan the main graph and the bodies of a normalized model.

    Args:
        model: normalized.
        selection: the user's selection; all nodes by default.
        kept: nodes to leave in float, by name, with the reason.
        run_time: names of products whose activation gets its range at run time; their results are float.
    """
    plan, owners = Plan(), body_owners(model)
    replaceable = {
        node.name or "": FloatReason(Cause.CALIBRATION, REPLACEABLE.format(name))
        for node, name in behind_replaceable(model).items()
    }
    kept = {**replaceable, **(kept or {})}
    for graph in model.graphs():
        # nodes that stay float in any surroundings, and pools that are slow in these
        unobservable = _unobservable_body(graph, owners)
        refusals = _refusals(model, graph, selection or Selection(), kept, unobservable)
        slow = FloatReason(Cause.NO_KERNEL, SLOW_POOL)
        refusals |= dict.fromkeys(slow_pools(graph, refusals), slow)
        # nodes between integers, first seen from the inputs, then from the outputs
        reached = _reached(graph, refusals, run_time)
        integer = _integer_nodes(graph, refusals, reached)
        _assemble(plan, graph, refusals, integer, run_time)
    return plan


def _refusals(
    model: ir.Model,
    graph: ir.Graph,
    selection: Selection,
    kept: Mapping[str, FloatReason],
    unobservable: str | None,
) -> dict[ir.Node, FloatReason]:
    """Return the nodes of a graph that stay float whatever surrounds them; the first reason counts."""
    opset, signal, gelus = opset_of(model), front_ends(graph), gelu_nodes(graph)

    def reason_of(node: ir.Node) -> FloatReason | None:
        if (node.name or "") in kept:
            return kept[node.name or ""]
        if node.op_type in OPERATORS and (text := selection.refusal(node)):
            return FloatReason(Cause.SELECTION, text)
        if unobservable:
            return FloatReason(Cause.CALIBRATION, unobservable)
        if node in signal:
            return FloatReason(Cause.CALIBRATION, SIGNAL_FRONT_END)
        text = GELU if node in gelus else refusal(node, opset)
        return FloatReason(Cause.NO_KERNEL, text) if text else None

    found = ((node, reason_of(node)) for node in graph)
    return {node: reason for node, reason in found if reason is not None}


def _unobservable_body(graph: ir.Graph, owners: Mapping[ir.Graph, ir.Node]) -> str | None:
    """Return the reason why the values of a body cannot be calibrated, or None."""
    owner = owners.get(graph)
    while owner is not None and owner.graph is not None:
        if (owner.domain, owner.op_type) not in OBSERVABLE:
            return f"is in the body of a {owner.op_type}, whose values cannot be observed"
        owner = owners.get(owner.graph) if isinstance(owner.graph, ir.Graph) else None
    return None


def _absorbed(node: ir.Node, refusals: Mapping[ir.Node, FloatReason]) -> ir.Node | None:
    """Return the clamp that a node absorbs into its output range: the only use of its result."""
    follower = only_use(node.outputs[0])
    if follower is None or follower in refusals or follower.inputs[0] is not node.outputs[0]:
        return None
    return follower if clamp_bounds(follower) is not None else None


def _carrier(node: ir.Node, refusals: Mapping[ir.Node, FloatReason]) -> ir.Value:
    """Return the value that carries a node's integer result."""
    clamp = _absorbed(node, refusals)
    return clamp.outputs[0] if clamp is not None else node.outputs[0]


def _integer_output(node: ir.Node, row: Operator) -> bool:
    """Tell whether the kernel exists only with a quantized result here.

    If a Relu or Clip with one consumer follows a node, the runtime looks for a QuantizeLinear behind it;
    without one it fuses nothing.
    """
    if row.needs_output_q:
        return True
    follower = only_use(node.outputs[0])
    return (
        follower is not None and follower.op_type in ("Relu", "Clip") and len(follower.outputs[0].uses()) == 1
    )


def _operands(node: ir.Node, row: Operator) -> tuple[list[int], list[int]]:
    """Return the indices of the activations, and of the constant operands that are quantized like them."""
    indices = range(len(node.inputs)) if row.activations is None else row.activations
    present = [index for index in indices if node.inputs[index] is not None]
    return (
        [index for index in present if not is_constant(node.inputs[index])],
        [index for index in present if is_constant(node.inputs[index])],
    )


def _reached(
    graph: ir.Graph, refusals: Mapping[ir.Node, FloatReason], run_time: Collection[str]
) -> set[ir.Value]:
    """Return the values that would be integer if every operator with an integer input joined a region."""
    reached: set[ir.Value] = set()
    for node in graph:
        if node in refusals or node.name in run_time:
            continue
        row = OPERATORS[node.op_type]
        activations, _ = _operands(node, row) if row.role is not Role.CLAMP else ([], [])
        joins = any(node.inputs[index] in reached for index in activations)
        if (row.role is Role.ANCHOR and _integer_output(node, row)) or (
            row.role is Role.ARITHMETIC and joins
        ):
            reached.add(_carrier(node, refusals))
        elif row.role in (Role.VIEW, Role.RAMP) and joins:
            reached.update(node.outputs)
    return reached


def _integer_nodes(
    graph: ir.Graph, refusals: Mapping[ir.Node, FloatReason], reached: set[ir.Value]
) -> set[ir.Node]:
    """Return the nodes that become integer: anchors, and reached nodes whose result an integer node uses."""
    integer: set[ir.Node] = set()
    wanted: set[ir.Value] = set()
    for node in reversed(list(graph)):
        if node in refusals:
            continue
        row = OPERATORS[node.op_type]
        if row.role is Role.CLAMP:
            continue
        if row.role is not Role.ANCHOR:
            outputs = [_carrier(node, refusals)] if row.role is Role.ARITHMETIC else list(node.outputs)
            if not any(value in wanted and value in reached for value in outputs):
                continue
        integer.add(node)
        wanted.update(node.inputs[index] for index in _operands(node, row)[0])  # type: ignore[misc]
    return integer


def _assemble(
    plan: Plan,
    graph: ir.Graph,
    refusals: Mapping[ir.Node, FloatReason],
    integer: set[ir.Node],
    run_time: Collection[str],
) -> None:
    """Add a graph's nodes and tensors to the plan, in the order of the graph."""
    clamps: set[ir.Node] = set()
    for node in graph:
        row = OPERATORS.get(node.op_type)
        if node in integer and row is not None:
            at_run_time = node.name in run_time
            absorbs = row.role in (Role.ANCHOR, Role.ARITHMETIC) and not at_run_time
            clamp = _absorbed(node, refusals) if absorbs else None
            if clamp is not None:
                clamps.add(clamp)
            _plan_node(plan, node, row, clamp, at_run_time=at_run_time)
        elif node not in clamps and _computes_floats(node):
            reason = refusals.get(node) or FloatReason(Cause.NO_KERNEL, _surroundings(node))
            plan.floats[node.name or ""] = node, reason


def _plan_node(plan: Plan, node: ir.Node, row: Operator, clamp: ir.Node | None, *, at_run_time: bool) -> None:
    """Add an integer node and its tensors to the plan."""
    activations, constants = _operands(node, row)
    output = clamp.outputs[0] if clamp is not None else node.outputs[0]
    integer_output = not at_run_time and _integer_output(node, row)
    # inputs
    for index in activations:
        _plan_tensor(plan, node.inputs[index])
    plan.nodes[node.name or ""] = PlannedNode(
        node, row, tuple(activations), tuple(constants), output, integer_output, at_run_time
    )
    # results
    if row.role is Role.VIEW:
        for value in node.outputs:
            _plan_tensor(plan, value, view_of=node.inputs[0])
    elif row.role is Role.RAMP:
        _plan_ramp(plan, node)
    elif integer_output:
        _plan_tensor(plan, output)


def _computes_floats(node: ir.Node) -> bool:
    """Tell whether a node has a float result; shape arithmetic, for example, needs no reason to stay."""
    kinds = [value.dtype for value in node.outputs]
    return not kinds or any(kind is None or kind.is_floating_point() for kind in kinds)


def _surroundings(node: ir.Node) -> str:
    """Return the reason why the nodes around a node keep it float."""
    if OPERATORS[node.op_type].role is Role.CLAMP:
        return "no integer operator before it can absorb it"
    return "is not between integer operators"


def _plan_ramp(plan: Plan, node: ir.Node) -> None:
    value, operand = node.outputs[0], node.inputs[0]
    assert operand is not None
    name = value.name or ""
    plan.tensors[name] = PlannedTensor(
        value, name, ramp=Ramp(*ramp_factors(node), plan.tensors[operand.name or ""].source)
    )


def _plan_tensor(plan: Plan, value: ir.Value | None, *, view_of: ir.Value | None = None) -> None:
    """Add a tensor to the plan unless it is there."""
    if value is None or value.name in plan.tensors:
        return
    name = value.name or ""
    producer = value.producer()
    known = KNOWN_RANGES.get(producer.op_type) if producer is not None else None
    source = name
    if view_of is not None:
        origin = plan.tensors[view_of.name or ""]
        source, known = origin.source, origin.known
    bounds = clamp_bounds(producer) if producer is not None else None
    plan.tensors[name] = PlannedTensor(value, source, bounds, known)
