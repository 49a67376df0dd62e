"""Decide which nodes become integer kernels, which tensors carry integers, and why the rest stays float.

Anchors (Conv, MatMul, Gemm) are the reason to quantize. Around them a region stays integer: an
operator joins where an integer value reaches it and an integer operator waits for its result, so
that no value is converted to float and back. The plan names tensors and nodes; it computes no number.
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
from onnxq.plan.signal_front_ends import SIGNAL_FRONT_END, front_ends
from onnxq.runtime.inner_values import OBSERVABLE

GELU = "belongs to a Gelu, for which the runtime has one float kernel"


@dataclass(frozen=True)
class Selection:
    """Which nodes the user lets onnxq quantize: names or globs, and operator types; empty means all.

    MatMul and Gemm are one type here: one becomes the other where a bias follows it.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    op_types: tuple[str, ...] = ()

    def refusal(self, node: ir.Node) -> str | None:
        """Why the user's choice keeps a node float, or None."""
        name = node.name or ""
        if any(fnmatchcase(name, pattern) for pattern in self.exclude):
            return "excluded by --exclude"
        if self.include and not any(fnmatchcase(name, pattern) for pattern in self.include):
            return "not among --include"
        if self.op_types and _alike(node.op_type).isdisjoint(self.op_types):
            return "not among --op-types"
        return None

    def check(self, nodes: Iterable[tuple[str, str]]) -> None:
        """See that each pattern and type is one of a model's, given the (name, type) of its nodes.

        Raises:
            ModelError: one is not.
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
    """A node that is to run on integers.

    activations  indices of the inputs that carry integers at run time
    constants    indices of the other operands, constants quantized as activations are
    output       the value that carries the integer result: behind a clamp that it absorbs
    integer_output  whether its kernel needs a quantized result (else that is up to its consumers)
    run_time     whether the range of its activation is found at run time: its result is float
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
    """clip(alpha x + beta, 0, 1) of the tensor whose parameters `source` has."""

    alpha: float
    beta: float
    source: str


@dataclass(frozen=True)
class PlannedTensor:
    """A value that is to carry integers.

    source  the value whose parameters it has (another one behind views, else itself)
    bounds  range of the clamp that produces it; the integer range has to lie inside
    known   range that holds for every input, which replaces calibration
    ramp    how it follows from another tensor's integers, which replaces calibration too
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
    """What is quantized; `floats` holds a reason for each node that is not, by name."""

    nodes: dict[str, PlannedNode] = field(default_factory=dict)
    tensors: dict[str, PlannedTensor] = field(default_factory=dict)
    floats: dict[str, tuple[ir.Node, FloatReason]] = field(default_factory=dict)

    @property
    def anchors(self) -> "dict[str, PlannedNode]":
        """The planned products and convolutions, by name."""
        return {name: planned for name, planned in self.nodes.items() if planned.row.role is Role.ANCHOR}

    def sources(self) -> list[str]:
        """Names of the values whose range has to be calibrated."""
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
        selection: nodes that the user lets onnxq quantize; all by default.
        kept: nodes to leave in float, by name, with the reason.
        run_time: names of products whose activation gets its range at run time; their results are float.
    """
    plan, owners = Plan(), body_owners(model)
    for graph in model.graphs():
        refusals = _refusals(model, graph, selection or Selection(), kept or {}, _unseen(graph, owners))
        slow = FloatReason(Cause.NO_KERNEL, SLOW_POOL)
        refusals |= dict.fromkeys(slow_pools(graph, refusals), slow)
        reached = _reached(graph, refusals, run_time)
        _assemble(plan, graph, refusals, _taken(graph, refusals, reached), run_time)
    return plan


def _refusals(
    model: ir.Model,
    graph: ir.Graph,
    selection: Selection,
    kept: Mapping[str, FloatReason],
    unseen: str | None,
) -> dict[ir.Node, FloatReason]:
    """Return the nodes of a graph that stay in float for themselves; the first reason that applies counts."""
    opset, signal, gelus = opset_of(model), front_ends(graph), gelu_nodes(graph)

    def reason_of(node: ir.Node) -> FloatReason | None:
        if (node.name or "") in kept:
            return kept[node.name or ""]
        if node.op_type in OPERATORS and (said := selection.refusal(node)):
            return FloatReason(Cause.SELECTION, said)
        if unseen:
            return FloatReason(Cause.CALIBRATION, unseen)
        if node in signal:
            return FloatReason(Cause.CALIBRATION, SIGNAL_FRONT_END)
        said = GELU if node in gelus else refusal(node, opset)
        return FloatReason(Cause.NO_KERNEL, said) if said else None

    found = ((node, reason_of(node)) for node in graph)
    return {node: reason for node, reason in found if reason is not None}


def _unseen(graph: ir.Graph, owners: Mapping[ir.Graph, ir.Node]) -> str | None:
    """Why the values of a body cannot be calibrated, or None."""
    owner = owners.get(graph)
    while owner is not None and owner.graph is not None:
        if (owner.domain, owner.op_type) not in OBSERVABLE:
            return f"lies in the body of a {owner.op_type}, whose values cannot be observed"
        owner = owners.get(owner.graph) if isinstance(owner.graph, ir.Graph) else None
    return None


def _absorbed(node: ir.Node, refusals: Mapping[ir.Node, FloatReason]) -> ir.Node | None:
    """The clamp that a node's output range can stand for: its result's only use."""
    follower = only_use(node.outputs[0])
    if follower is None or follower in refusals or follower.inputs[0] is not node.outputs[0]:
        return None
    return follower if clamp_bounds(follower) is not None else None


def _carrier(node: ir.Node, refusals: Mapping[ir.Node, FloatReason]) -> ir.Value:
    """The value that carries a node's integer result."""
    clamp = _absorbed(node, refusals)
    return clamp.outputs[0] if clamp is not None else node.outputs[0]


def _integer_output(node: ir.Node, row: Operator) -> bool:
    """Whether the kernel exists only with a quantized result here.

    A Relu or Clip with one consumer behind a node makes the runtime look for a Q behind it, and fuse
    nothing where there is none.
    """
    if row.needs_output_q:
        return True
    follower = only_use(node.outputs[0])
    return (
        follower is not None and follower.op_type in ("Relu", "Clip") and len(follower.outputs[0].uses()) == 1
    )


def _operands(node: ir.Node, row: Operator) -> tuple[list[int], list[int]]:
    """Indices of the activations and of the constant operands that are quantized like them."""
    indices = range(len(node.inputs)) if row.activations is None else row.activations
    present = [index for index in indices if node.inputs[index] is not None]
    return (
        [index for index in present if not is_constant(node.inputs[index])],
        [index for index in present if is_constant(node.inputs[index])],
    )


def _reached(
    graph: ir.Graph, refusals: Mapping[ir.Node, FloatReason], run_time: Collection[str]
) -> set[ir.Value]:
    """Values that integer operators produce, if all that could join a region did."""
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


def _taken(graph: ir.Graph, refusals: Mapping[ir.Node, FloatReason], reached: set[ir.Value]) -> set[ir.Node]:
    """Nodes that become integer: anchors, and what lies between them and is reached."""
    taken: set[ir.Node] = set()
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
        taken.add(node)
        wanted.update(node.inputs[index] for index in _operands(node, row)[0])  # type: ignore[misc]
    return taken


def _assemble(
    plan: Plan,
    graph: ir.Graph,
    refusals: Mapping[ir.Node, FloatReason],
    taken: set[ir.Node],
    run_time: Collection[str],
) -> None:
    clamps: set[ir.Node] = set()
    for node in graph:
        row = OPERATORS.get(node.op_type)
        if node in taken and row is not None:
            activations, constants = _operands(node, row)
            at_run_time = node.name in run_time
            absorbs = row.role in (Role.ANCHOR, Role.ARITHMETIC) and not at_run_time
            clamp = _absorbed(node, refusals) if absorbs else None
            if clamp is not None:
                clamps.add(clamp)
            output = clamp.outputs[0] if clamp is not None else node.outputs[0]
            for index in activations:
                _plan_tensor(plan, node.inputs[index])
            integer_output = not at_run_time and _integer_output(node, row)
            plan.nodes[node.name or ""] = PlannedNode(
                node, row, tuple(activations), tuple(constants), output, integer_output, at_run_time
            )
            if row.role is Role.VIEW:
                for value in node.outputs:
                    _plan_tensor(plan, value, view_of=node.inputs[0])
            elif row.role is Role.RAMP:
                _plan_ramp(plan, node)
            elif integer_output:
                _plan_tensor(plan, output)
        elif node not in clamps and _computes_floats(node):
            plan.floats[node.name or ""] = (
                node,
                refusals.get(node) or FloatReason(Cause.NO_KERNEL, _left_out(node)),
            )


def _computes_floats(node: ir.Node) -> bool:
    """False for shape arithmetic and the like, of which nobody asks why it is not quantized."""
    kinds = [value.dtype for value in node.outputs]
    return not kinds or any(kind is None or kind.is_floating_point() for kind in kinds)


def _left_out(node: ir.Node) -> str:
    if OPERATORS[node.op_type].role is Role.CLAMP:
        return "no integer operator's range can stand for it"
    return "does not lie between integer operators"


def _plan_ramp(plan: Plan, node: ir.Node) -> None:
    value, operand = node.outputs[0], node.inputs[0]
    assert operand is not None
    name = value.name or ""
    plan.tensors[name] = PlannedTensor(
        value, name, ramp=Ramp(*ramp_factors(node), plan.tensors[operand.name or ""].source)
    )


def _plan_tensor(plan: Plan, value: ir.Value | None, *, view_of: ir.Value | None = None) -> None:
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
