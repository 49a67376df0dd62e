"""Values whose range no sample shows, and the values behind them in the graph.

Calibration sees nothing of an If branch that is never taken, of a Loop without iterations, or of an operand
that is always zero. Ranges of what is computed from such values do not hold either, as far as a new range
passes through the operators: not through a normalization, and not through a Concat, whose other operands
have a range for all.
"""

from collections.abc import Callable, Collection, Iterable

import onnx_ir as ir

from onnxq.graph.edit import body_owners, is_constant, nodes_of
from onnxq.plan.operators import KNOWN_RANGES
from onnxq.runtime.inner_values import OBSERVABLE

BOUNDED = frozenset(KNOWN_RANGES) | {
    "GRU", "GroupNormalization", "InstanceNormalization", "LSTM", "LayerNormalization", "LpNormalization",
    "MeanVarianceNormalization", "RMSNormalization", "RNN", "SimplifiedLayerNormalization",
}  # fmt: skip
"""Operators whose results have the same range for operands of any range."""
SHAPES = frozenset({"Shape", "Size"})
Passes = Callable[[ir.Node, Collection[ir.Value]], bool]
"""Whether a node passes something of the given values to its results; at least one is an operand."""


def everything(_node: ir.Node, _values: Collection[ir.Value]) -> bool:
    """Pass any influence."""
    return True


def data(node: ir.Node, _values: Collection[ir.Value]) -> bool:
    """Pass values of any type, not their shapes."""
    return node.op_type not in SHAPES


def joined_ranges(node: ir.Node, values: Collection[ir.Value]) -> bool:
    """Pass ranges, through a Concat too."""
    if node.op_type in BOUNDED | SHAPES or not any(_may_be_float(value) for value in node.outputs):
        return False
    # (x - mean) / deviation
    return node.op_type != "Div" or not {*node.inputs} <= {*values}


def ranges(node: ir.Node, values: Collection[ir.Value]) -> bool:
    """Pass ranges; a Concat passes none as long as one operand's range is known."""
    if node.op_type == "Concat":
        return all(value is None or value in values or is_constant(value) for value in node.inputs)
    return joined_ranges(node, values)


def reached(model: ir.Model, origins: Iterable[ir.Value], passes: Passes) -> set[ir.Value]:
    """Return the values that depend on `origins`, these included, through the nodes that pass it on."""
    found, before = {*origins}, -1
    while len(found) != before:
        before = len(found)
        for node in nodes_of(model):
            if node.attributes and _has_body(node):
                _through_bodies(node, found)
            elif any(value in found for value in node.inputs) and passes(node, found):
                found.update(
                    value for value in node.outputs if passes in (everything, data) or _may_be_float(value)
                )
    return found


def flat(model: ir.Model, origins: Iterable[ir.Value]) -> set[ir.Value]:
    """Return the values that are always the same, or never there, because all that they depend on is.

    Args:
        model: the model.
        origins: values of this kind.
    """
    found, before = {*origins}, -1
    while len(found) != before:
        before = len(found)
        for node in nodes_of(model):
            varying = [value for value in node.inputs if value is not None and not is_constant(value)]
            if varying and all(value in found for value in varying) and not _has_body(node):
                found.update(node.outputs)
    return found


def _may_be_float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()


def _has_body(node: ir.Node) -> bool:
    return any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values())


def bodies(node: ir.Node) -> dict[str, ir.Graph]:
    """Return the bodies of a node by attribute name."""
    return {
        name: attribute.as_graph()
        for name, attribute in node.attributes.items()
        if attribute.type == ir.AttributeType.GRAPH
    }


def _through_bodies(node: ir.Node, found: set[ir.Value]) -> None:
    """Pass on what enters a node with bodies, leaves it, or goes from one iteration to the next."""
    for body in bodies(node).values():
        # a Loop's body takes the iteration number and the condition first, and returns the condition first
        skipped = 1 if node.op_type == "Loop" else 0
        for inner, outer in zip(body.outputs[skipped:], node.outputs, strict=False):
            if inner in found:
                found.add(outer)
        if node.op_type == "If":
            continue
        for outer_input, inner in zip(node.inputs, body.inputs, strict=False):
            if outer_input in found:
                found.add(inner)
        for given, taken in zip(state_outputs(node, body), state_inputs(node, body), strict=True):
            if given in found or taken in found:
                found.update((given, taken))


def state_inputs(node: ir.Node, body: ir.Graph) -> list[ir.Value]:
    """Return the inputs of a Loop's or Scan's body that carry values from the iteration before."""
    if node.op_type == "Loop":
        return list(body.inputs[2:])
    scanned = node.attributes.get("num_scan_inputs")
    return list(body.inputs[: len(body.inputs) - (scanned.as_int() if scanned is not None else 0)])


def state_outputs(node: ir.Node, body: ir.Graph) -> list[ir.Value]:
    """Return the outputs of a Loop's or Scan's body that the next iteration gets."""
    first = 1 if node.op_type == "Loop" else 0
    return list(body.outputs[first : first + len(state_inputs(node, body))])


def body_values(node: ir.Node, body: ir.Graph) -> list[ir.Value]:
    """Return the values that a body computes, those of bodies within it included, and the node's results."""
    inner = [value for each in body.all_nodes() for value in each.outputs]
    return [*body.inputs, *inner, *node.outputs]


def probes(model: ir.Model) -> list[ir.Value]:
    """Return the values that tell which parts of a model run, and the inputs that are numbers or truths.

    They are the conditions of Ifs and the iteration numbers of Loops, where these are scalars that can be
    observed (`onnxq.runtime.inner_values`): around them there is at most one Loop or Scan.
    """
    owners = body_owners(model)
    found = [value for value in model.graph.inputs if value.dtype not in (None, ir.DataType.STRING)]
    for node in nodes_of(model):
        if (node.domain, node.op_type) not in OBSERVABLE or node.op_type == "Scan":
            continue
        around = _owners(node, owners)
        repeated = [owner for owner in around if owner.op_type != "If"]
        if any((owner.domain, owner.op_type) not in OBSERVABLE for owner in around):
            continue
        if node.op_type == "Loop" and not repeated:
            found.append(bodies(node)["body"].inputs[0])
        if node.op_type == "If" and repeated in ([], around[:1]) and node.inputs[0] is not None:
            found.append(node.inputs[0])
    # an input with a default has no value in the samples
    return [value for value in dict.fromkeys(found) if value.name and value.const_value is None]


def _owners(node: ir.Node, owners: dict[ir.Graph, ir.Node]) -> list[ir.Node]:
    """Return the nodes in whose bodies a node lies, innermost first."""
    found: list[ir.Node] = []
    graph = node.graph
    while isinstance(graph, ir.Graph) and graph in owners:
        found.append(owners[graph])
        graph = owners[graph].graph
    return found
