"""Planned products and convolutions: their output channels, their biases, and those among float operators."""

import onnx_ir as ir

from onnxq.graph.edit import attribute, body_owners, constant, only_use, sizes
from onnxq.plan.constraints import channels_axis
from onnxq.plan.plan import Plan, PlannedNode


def channel_axis(planned: PlannedNode) -> int:
    """The axis of the weight that numbers output channels."""
    return channels_axis(planned.node, planned.row)


def following_bias(planned: PlannedNode) -> tuple[ir.Node, int] | None:
    """The Add behind a MatMul whose constant [.., channels] serves as its bias: (node, input index)."""
    if planned.row.bias is not None:
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
    """Whether something can take what rounding shifts the output by."""
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
    """Planned products with a bias behind them that take float values and give float values, and whose activation none but such take."""
    made = {
        value.name for planned in plan.nodes.values() for value in (planned.output, *planned.node.outputs)
    }
    found = {
        name
        for name, planned in plan.nodes.items()
        if following_bias(planned) is not None and planned.output.name not in plan.tensors
    }
    for tensor in plan.tensors.values():
        takers = {use.node.name or "" for use in tensor.value.uses()} & plan.nodes.keys()
        if tensor.name in made or not takers <= found:
            found -= takers
    return [name for name in plan.nodes if name in found]
