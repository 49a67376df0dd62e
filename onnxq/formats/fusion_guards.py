"""Guards against rewrites of the runtime that make a model slower or less accurate.

WeightBiasQuantization: between a DequantizeLinear and a QuantizeLinear, the runtime (1.31) quantizes the
weights of a float Conv, ConvTranspose or Gemm itself, with one scale for all channels. It matches a
QuantizeLinear directly behind the node, or behind a Relu or Clip. A LeakyRelu in between prevents the match
and costs little, as the float kernel fuses it. With slope 0 it is a Relu, with slope 1 it changes nothing.

QDQPropagation: the runtime moves a QuantizeLinear that alone follows a float MaxPool before it, also through
operators that only move elements. The integer MaxPool takes about twenty times as long as the float one, as
it is not in its fast layout, and all elements are quantized instead of the pooled ones. A LeakyRelu of slope
1 keeps the QuantizeLinear in place.

QLinearAveragePool: the runtime makes one of any AveragePool between a DequantizeLinear and a QuantizeLinear,
though its kernel knows no dilations, and counts otherwise with ceil_mode and count_include_pad. The
LeakyRelu of slope 1 prevents that, too.
It also moves a DequantizeLinear behind a MaxPool, or what only moves elements, and ends the process where a
body of an If, Loop or Scan reads the result. The body then reads it behind a LeakyRelu of slope 1.

MatMulAddFusion: a MatMul of rank 3 or more with a bias and a static shape becomes a float Gemm between
Reshapes before the runtime selects integer kernels; its weights are widened in every run. A bias of shape
`[1, N]` prevents the fusion.
"""

import onnx_ir as ir

from onnxq.graph.edit import (
    Names,
    add_initializer,
    add_node,
    constant,
    graph_of,
    is_float,
    nodes_of,
    only_use,
    take_output,
    tidy,
)
from onnxq.plan.constraints import average_refusal

WITH_WEIGHTS = frozenset({"Conv", "ConvTranspose", "Gemm"})
"""Operators whose weights the runtime would quantize."""
MOVING = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze"})
"""Operators that only move elements."""
CLAMPS = frozenset({"Relu", "Clip"})
"""Operators that the runtime removes in front of a QuantizeLinear."""


def guard_fusions(model: ir.Model) -> bool:
    """Protect the nodes that the runtime would rewrite, in place; return whether there was any."""
    names, modified = Names(model), False
    for node in list(nodes_of(model)):
        if node.op_type == "QuantizeLinear":
            modified |= _guard_pool(node, names) or _guard_average(node, names)
        if node.op_type in MOVING | {"MaxPool"}:
            modified |= _guard_body(node, names)
        if node.op_type == "MatMul":
            modified |= _guard_product(model, node, names)
        if (
            node.op_type not in WITH_WEIGHTS
            or node.domain not in ("", "ai.onnx")
            or not _is_quantizable(node)
        ):
            continue
        modified = True
        follower = only_use(node.outputs[0])
        assert follower is not None
        if follower.op_type == "Relu":
            value = _leaky(follower, follower.inputs[0], 0.0, names)
            take_output(value, follower.outputs[0])
            graph_of(follower).remove(follower, safe=True)
        else:
            follower.replace_input_with(0, _leaky(node, node.outputs[0], 1.0, names))
    if modified:
        tidy(model)  # biases that a guard replaced are used no more
    return modified


def _is_quantizable(node: ir.Node) -> bool:
    """Whether the runtime would quantize the weight of a node that the plan leaves in float."""
    producers = [value.producer() if value is not None else None for value in node.inputs[:2]]
    if producers[0] is None or producers[0].op_type != "DequantizeLinear":
        return False
    if producers[1] is not None and producers[1].op_type == "DequantizeLinear":
        return False  # quantized by plan
    follower = only_use(node.outputs[0])
    if follower is not None and follower.op_type in ("Relu", "Clip"):
        follower = only_use(follower.outputs[0])
    return follower is not None and follower.op_type == "QuantizeLinear"


def _guard_pool(quantizer: ir.Node, names: Names) -> bool:
    """Keep a QuantizeLinear behind its float MaxPool; return whether there is one."""
    last, node = quantizer, quantizer.inputs[0].producer() if quantizer.inputs[0] is not None else None
    while node is not None and node.op_type in MOVING and only_use(node.outputs[0]) is last:
        last, node = node, node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None or node.op_type != "MaxPool" or only_use(node.outputs[0]) is not last:
        return False
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    if before is not None and before.op_type == "DequantizeLinear":
        return False  # on integers by plan
    last.replace_input_with(0, _leaky(node, node.outputs[0], 1.0, names))
    return True


def _guard_average(quantizer: ir.Node, names: Names) -> bool:
    """Keep AveragePools in float that the integer kernel computes otherwise; return whether there is one."""
    last, node = quantizer, quantizer.inputs[0].producer() if quantizer.inputs[0] is not None else None
    while node is not None and node.op_type in MOVING | CLAMPS and only_use(node.outputs[0]) is last:
        last, node = node, node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None or node.op_type != "AveragePool" or only_use(node.outputs[0]) is not last:
        return False
    if average_refusal(node) is None:
        return False
    last.replace_input_with(0, _leaky(node, node.outputs[0], 1.0, names))
    return True


def _guard_body(node: ir.Node, names: Names) -> bool:
    """Shield what bodies read of an operator behind a DequantizeLinear; return whether they read any."""
    inside = [use for use in node.outputs[0].uses() if use.node.graph is not node.graph]
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    while before is not None and before.op_type in MOVING | {"MaxPool"}:
        before = before.inputs[0].producer() if before.inputs[0] is not None else None
    if not inside or before is None or before.op_type != "DequantizeLinear" or not is_float(node.outputs[0]):
        return False
    shielded = _leaky(node, node.outputs[0], 1.0, names)
    for use in inside:
        use.node.replace_input_with(use.idx, shielded)
    return True


def _guard_product(model: ir.Model, product: ir.Node, names: Names) -> bool:
    """Give the bias behind a quantized MatMul the shape `[1, N]`; return whether it had another."""
    operands = [value.producer() if value is not None else None for value in product.inputs]
    shape, add = product.outputs[0].shape, only_use(product.outputs[0])
    if (
        any(node is None or node.op_type != "DequantizeLinear" for node in operands)
        or shape is None
        or len(shape) < 3
    ):
        return False
    if add is None or add.op_type != "Add" or add.domain not in ("", "ai.onnx"):
        return False
    index = 1 - add.inputs.index(product.outputs[0])
    bias = constant(add.inputs[index])
    if bias is None or bias.ndim != 1:
        return False
    old = add.inputs[index]
    assert old is not None
    add.replace_input_with(index, add_initializer(model.graph, names.fresh(f"{old.name}_row"), bias[None]))
    return True


def _leaky(beside: ir.Node, source: ir.Value | None, slope: float, names: Names) -> ir.Value:
    assert source is not None
    value = ir.Value(name=names.fresh(f"{source.name}_shielded"), shape=source.shape, type=source.type)
    add_node(
        graph_of(beside),
        "LeakyRelu",
        [source],
        [value],
        name=names.fresh(f"{beside.name}_shield"),
        alpha=slope,
    )
    return value
