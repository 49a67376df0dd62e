"""QOperator format: the file contains the integer operators, independent of the runtime's fusions.

It is made from the QDQ model: DequantizeLinear -> operator -> QuantizeLinear becomes one QLinear operator.
Most of these belong to the com.microsoft domain and run in ONNX Runtime only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from onnxq.formats.qdq import write_qdq
from onnxq.graph.edit import MICROSOFT, graph_of, nodes_of, only_use, tidy
from onnxq.plan.operators import Role
from onnxq.plan.plan import Plan, PlannedNode
from onnxq.quantization.parameters import Parameters

Inputs = list[ir.Value | None]


@dataclass(frozen=True)
class _Operands:
    """Operands of a fused operator: each operand and the result as [integers, scale, zero point]."""

    operands: list[Inputs]
    bias: ir.Value | None
    result: Inputs


@dataclass(frozen=True)
class _Layout:
    """Domain and input order of an integer operator, and attributes that its float form does not have."""

    domain: str
    inputs: Callable[[_Operands], Inputs]
    extra: tuple[tuple[str, int], ...] = ()


def _in_order(o: _Operands) -> Inputs:
    return [value for operand in o.operands for value in operand] + o.result[1:]


_USUAL = _Layout(MICROSOFT, _in_order)
"""Layout of the kernels that are not in `_LAYOUTS`."""
_LAYOUTS = {
    "QLinearConv": _Layout("", lambda o: [*_in_order(o), o.bias]),
    "QLinearMatMul": _Layout("", _in_order),
    "QGemm": _Layout(MICROSOFT, lambda o: [*o.operands[0], *o.operands[1], o.bias, *o.result[1:]]),
    "MatMulIntegerToFloat": _Layout(
        MICROSOFT, lambda o: [part[i] for i in range(3) for part in o.operands[:2]]
    ),
    "QLinearConcat": _Layout(MICROSOFT, lambda o: o.result[1:] + [v for x in o.operands for v in x]),
    "QLinearGlobalAveragePool": _Layout(MICROSOFT, _in_order, (("channels_last", 0),)),
}


def write_qoperator(model: ir.Model, plan: Plan, parameters: Parameters) -> ir.Model:
    """Return the quantized model in QOperator format; the given model is not modified."""
    quantized = write_qdq(model, plan, parameters)
    nodes = {node.name: node for node in nodes_of(quantized)}
    for name, planned in plan.nodes.items():
        if planned.row.role is not Role.RAMP:  # it is a Clip of integers already
            _fuse(graph_of(nodes[name]), nodes[name], planned)
    quantized.graph.opset_imports[MICROSOFT] = 1
    tidy(quantized)
    return quantized


def _fuse(graph: ir.Graph, node: ir.Node, planned: PlannedNode) -> None:
    results = [_quantized_output(value) for value in node.outputs]
    if planned.row.role is Role.VIEW:
        if all(result is not None for result in results):
            _integer_view(graph, node, [result for result in results if result is not None])
        return
    quantizer = results[0]
    kernel = planned.row.kernel
    if quantizer is None:
        if planned.integer_output:
            return  # a clamp that the integer range cannot replace lies in between: stays QDQ
        kernel = "MatMulIntegerToFloat" if kernel == "QLinearMatMul" else kernel
    layout = _LAYOUTS.get(kernel, _USUAL)
    bias = (
        node.inputs[planned.row.bias]
        if planned.row.bias is not None and planned.row.bias < len(node.inputs)
        else None
    )
    taken = [v for i, v in enumerate(node.inputs) if v is not None and i != planned.row.bias]
    operands = _Operands(
        [_integers(value) for value in taken],
        _integers(bias)[0] if bias is not None else None,
        [quantizer.outputs[0], quantizer.inputs[1], quantizer.inputs[2]] if quantizer is not None else [],
    )
    inputs = layout.inputs(operands)
    while inputs and inputs[-1] is None:
        inputs.pop()
    attributes = [a for a in node.attributes.values() if a.name != "beta"]
    attributes += [ir.AttrInt64(key, value) for key, value in layout.extra]
    output = quantizer.outputs[0] if quantizer is not None else node.outputs[0]
    new = ir.Node(layout.domain, kernel, inputs, attributes, num_outputs=1, name=node.name)
    _replace(graph, [quantizer, node] if quantizer is not None else [node], [(output, new.outputs[0])], new)


def _integer_view(graph: ir.Graph, node: ir.Node, quantizers: list[ir.Node]) -> None:
    """Let a view read and write the integers themselves."""
    new = ir.Node(
        node.domain, node.op_type, [_integers(node.inputs[0])[0], *node.inputs[1:]],
        list(node.attributes.values()), num_outputs=len(node.outputs), name=node.name,
    )  # fmt: skip
    pairs = [(q.outputs[0], output) for q, output in zip(quantizers, new.outputs, strict=True)]
    _replace(graph, [*quantizers, node], pairs, new)


def _replace(
    graph: ir.Graph, old: list[ir.Node], pairs: list[tuple[ir.Value, ir.Value]], new: ir.Node
) -> None:
    names = [before.name for before, _ in pairs]
    for before, after in pairs:
        after.shape, after.type = before.shape, before.type
        ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
    graph.append(new)
    for node in old:
        graph.remove(node, safe=True)
    for name, (before, after) in zip(names, pairs, strict=True):
        before.name = None
        after.name = name


def _integers(value: ir.Value | None) -> Inputs:
    """Return the inputs [integers, scale, zero point] of the DequantizeLinear that produces a value."""
    producer = value.producer() if value is not None else None
    assert producer is not None and producer.op_type == "DequantizeLinear"
    return list(producer.inputs)


def _quantized_output(value: ir.Value) -> ir.Node | None:
    """Return the QuantizeLinear that is the only consumer of a value, or None."""
    follower = only_use(value)
    return follower if follower is not None and follower.op_type == "QuantizeLinear" else None
