"""`--mode dynamic`: int8 weights, activations quantized at run time with the range that each has just then.

Convolutions stay float: ConvInteger takes longer than a float convolution (docs/results.md).
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxq.calibration.collect import collect_moments
from onnxq.calibration.moments import LayerInput, Moments
from onnxq.formats.lstm import dynamic_lstms, quantize_lstms
from onnxq.formats.nbits import MICROSOFT
from onnxq.formats.tables import quantize_tables
from onnxq.job import Job
from onnxq.model.edit import Names, add_initializer, add_node, constant, graph_of, input_at, take_output
from onnxq.modes.products import Made, plan_products
from onnxq.options import Effort
from onnxq.plan import Plan
from onnxq.references import References
from onnxq.schemes import Array
from onnxq.smooth import smooth
from onnxq.techniques.saturation import kernel_order
from onnxq.weights import QuantizedWeight, WeightOptions, channel_axis, layer_inputs, quantize_weight

NO_BIAS = np.float32(1e10)
"""A step of the activations so wide that no bias would overflow: biases stay float here, no weight's scale has to grow for them."""


def quantize_dynamic(job: Job, references: References | None) -> Made:
    """With data weights are rounded by it and activations smoothed, where held-out samples say that it helps."""
    plan = plan_products(job.model, job.selection)
    moments: Mapping[LayerInput, Moments] = {}
    if job.calibration and plan.nodes:
        moments = collect_moments(job.model, layer_inputs(plan).values(), job.calibration, second=job.options.effort is not Effort.FAST)
    tried = [(_write(job, job.model, plan, moments), plan, ["gptq", "bias correction"] if moments else [])]
    if moments and references is not None:
        changed = smooth(job.model, plan, moments)
        if changed is not None:
            again = plan_products(changed.model, job.selection)
            tried.append((_write(job, changed.model, again, changed.moments), again, ["smoothing", "gptq", "bias correction"]))
        model, plan, techniques = max(tried, key=lambda each: references.sqnr_db(each[0]))
    else:
        model, plan, techniques = tried[0]
    lstms = dynamic_lstms(model)
    quantize_lstms(model, lstms)
    for name in lstms:
        plan.floats.pop(name, None)
    notes = [f"{len(lstms)} LSTMs with int8 weights"] if lstms else []
    return Made(model, plan, techniques, notes, len(lstms))


def _write(job: Job, source: ir.Model, plan: Plan, moments: Mapping[LayerInput, Moments]) -> ir.Model:
    """A copy whose products run as MatMulIntegerToFloat; those that share an activation quantize it once."""
    model = source.clone()
    names = Names(model)
    model.graph.opset_imports.setdefault(MICROSOFT, 1)
    nodes = {node.name: node for graph in model.graphs() for node in graph}
    options = WeightOptions(job.options.per_channel, job.options.target, gptq=bool(moments), bias_correction=bool(moments))
    layers = layer_inputs(plan)
    quantized: dict[tuple[ir.Value, ir.Graph], list[ir.Value]] = {}
    for name, planned in plan.nodes.items():
        known = moments.get(layers[name]) if name in layers else None
        weight = quantize_weight(planned, NO_BIAS, known, options, always_shift=True)
        node = nodes[name]
        _replace(model, node, kernel_order(weight.stored, channel_axis(planned)).T, weight, quantized, names)
    passes.RemoveUnusedNodesPass()(model)
    quantize_tables(model)
    model.graph.sort()
    return model


def _replace(
    model: ir.Model,
    node: ir.Node,
    stored: Array,
    weight: QuantizedWeight,
    quantized: dict[tuple[ir.Value, ir.Graph], list[ir.Value]],
    names: Names,
) -> None:
    graph, value, base = graph_of(node), node.inputs[0], node.name or "product"
    assert value is not None
    if (value, graph) not in quantized:
        made = [ir.Value(name=names.fresh(f"{value.name}_{part}")) for part in ("quantized", "scale", "zero_point")]
        add_node(graph, "DynamicQuantizeLinear", [value], made, name=names.fresh(f"{value.name}_DynamicQuantizeLinear"))
        quantized[value, graph] = made
    integers, scale, zero = quantized[value, graph]
    scales = weight.scales if len(set(weight.scales.tolist())) > 1 else weight.scales[:1].reshape(())
    operands = [
        add_initializer(model.graph, names.fresh(f"{base}_weight_{part}"), np.ascontiguousarray(array))
        for part, array in (("quantized", stored), ("scale", scales), ("zero_point", np.zeros(scales.shape, np.int8)))
    ]
    inputs = [integers, operands[0], scale, operands[1], zero, operands[2]]
    bias = _bias(model, node, weight, names)
    output = ir.Value(name=names.fresh(f"{base}_result"))
    add_node(graph, "MatMulIntegerToFloat", [*inputs, *([bias] if bias is not None else [])], [output], name=base, domain=MICROSOFT)
    old = node.outputs[0]
    take_output(output, old)
    graph.remove(node, safe=True)


def _bias(model: ir.Model, node: ir.Node, weight: QuantizedWeight, names: Names) -> ir.Value | None:
    """The product's bias with what rounding shifts its output by."""
    given = input_at(node, 2)
    if weight.shift is None:
        return given
    known = constant(given)
    if given is not None and known is None:
        return given
    total = weight.shift.reshape(-1) + (0 if known is None else known)
    return add_initializer(model.graph, names.fresh(f"{node.name}_bias"), np.asarray(total, np.float32))
