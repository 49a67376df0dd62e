"""Planned products and convolutions: output channels, biases, and products between float operators."""

import onnx_ir as ir

from onnxq.graph.edit import attribute, body_owners, constant, only_use, sizes
from onnxq.plan.constraints import channels_axis
from onnxq.plan.plan import Plan, PlannedNode


def channel_axis(planned: PlannedNode) -> int:
    """Return the axis of the weight's output channels."""
    return channels_axis(planned.node, planned.row)


def following_bias(planned: PlannedNode) -> tuple[ir.Node, int] | None:
    """Return the Add of a constant bias [.., channels] behind a MatMul, and the index of that input."""
    if planned.row.op_type != "MatMul":
        return None
    output = planned.node.outputs[0]
    follower = only_use(output)
    if follower is None or follower.op_type != "Add":
        return None
    index = 1 if follower.inputs[0] is output else 0
    array = constant(follower.inputs[index])
    weight = sizes(planned.node.inputs[1])
    if (
        array is None
        or weight is None
        or len(weight) != 2
        or array.size != weight[1]
        or array.shape[-1:] != (weight[1],)
    ):
        return None
    return follower, index


def has_bias(planned: PlannedNode) -> bool:
    """Tell whether a bias can correct the shift of the output that rounding causes."""
    return planned.row.bias is not None or following_bias(planned) is not None


def fits_run_time_ranges(planned: PlannedNode) -> bool:
    """Whether a kernel multiplies the node's weight with an activation quantized at run time."""
    return planned.node.op_type in ("MatMul", "Gemm") and not attribute(planned.node, "transA", 0)


def products_in_loops(model: ir.Model, plan: Plan) -> list[str]:
    """Return the planned products in bodies of Loops and Scans that may get ranges at run time."""
    owners = body_owners(model)

    def repeated(graph: object) -> bool:
        if not isinstance(graph, ir.Graph) or graph not in owners:
            return False
        return owners[graph].op_type != "If" or repeated(owners[graph].graph)

    return [
        name
        for name, planned in plan.anchors.items()
        if not planned.run_time and fits_run_time_ranges(planned) and repeated(planned.node.graph)
    ]


def among_floats(plan: Plan) -> list[str]:
    """Return the planned products whose inputs and results are float, and that have a bias behind them.

    All planned consumers of their activations are such products.
    """
    integer_results = {
        value.name for planned in plan.nodes.values() for value in (planned.output, *planned.node.outputs)
    }
    found = {
        name
        for name, planned in plan.nodes.items()
        if following_bias(planned) is not None and planned.output.name not in plan.tensors
    }
    for tensor in plan.tensors.values():
        consumers = {use.node.name or "" for use in tensor.value.uses()} & plan.nodes.keys()
        if tensor.name in integer_results or not consumers <= found:
            found -= consumers
    return [name for name in plan.nodes if name in found]
