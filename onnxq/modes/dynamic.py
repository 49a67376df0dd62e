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
from onnxq.formats.nbits import MICROSOFT, BitsWriter
from onnxq.job import Job
from onnxq.model.edit import Names, add_initializer, add_node, constant, graph_of, input_at, nodes_of, take_output
from onnxq.modes.products import Made, plan_products
from onnxq.modes.tables import code_tables, find_tables
from onnxq.options import Effort
from onnxq.plan import Plan
from onnxq.references import References
from onnxq.schemes import Array
from onnxq.smooth import smooth
from onnxq.techniques.saturation import kernel_order
from onnxq.weights import QuantizedWeight, WeightOptions, channel_axis, following_bias, layer_inputs, quantize_weight

NO_BIAS = np.float32(1e10)
"""A step of the activations so wide that no bias would overflow: biases stay float here, no weight's scale has to grow for them."""
TABLE_BLOCK = 128
"""Values of an embedding that share a scale."""


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
    writer = _Writer(source.clone())
    nodes = {node.name: node for node in nodes_of(writer.model)}
    options = WeightOptions(job.options.per_channel, job.options.target, gptq=bool(moments), bias_correction=bool(moments))
    layers = layer_inputs(plan)
    for name, planned in plan.nodes.items():
        known = moments.get(layers[name]) if name in layers else None
        weight = quantize_weight(planned, NO_BIAS, known, options, always_shift=True)
        behind = following_bias(planned)
        follower = (nodes[behind[0].name], behind[1]) if behind is not None else None
        writer.replace(nodes[name], kernel_order(weight.stored, channel_axis(planned)).T, weight, follower)
    code_tables(BitsWriter(writer.model, 0), find_tables(writer.model), TABLE_BLOCK)
    passes.RemoveUnusedNodesPass()(writer.model)
    writer.model.graph.sort()
    return writer.model


class _Writer:
    """Replaces products in a model, in place."""

    def __init__(self, model: ir.Model) -> None:
        self.model, self.names = model, Names(model)
        model.graph.opset_imports.setdefault(MICROSOFT, 1)
        self._quantized: dict[tuple[ir.Value, ir.Graph], list[ir.Value]] = {}

    def replace(self, node: ir.Node, stored: Array, weight: QuantizedWeight, follower: tuple[ir.Node, int] | None) -> None:
        """A product, and the Add of a constant behind it if there is one, by a kernel that has both.

        Args:
            node: MatMul or Gemm.
            stored: its weight, [K, channels] int8.
            weight: scales, and what rounding shifts the output by.
            follower: the Add, and which operand is the bias.
        """
        graph, base = graph_of(node), node.name or "product"
        integers, scale, zero = self._integers(node.inputs[0], graph)
        scales = weight.scales if len(set(weight.scales.tolist())) > 1 else weight.scales[:1].reshape(())
        constants = {"quantized": stored, "scale": scales, "zero_point": np.zeros(scales.shape, np.int8)}
        codes, factor, middle = (self._constant(f"{base}_weight_{part}", array) for part, array in constants.items())
        last, given = (node, input_at(node, 2)) if follower is None else (follower[0], follower[0].inputs[follower[1]])
        inputs = [integers, codes, scale, factor, zero, middle, self._bias(base, given, weight)]
        output = ir.Value(name=self.names.fresh(f"{base}_result"))
        add_node(graph, "MatMulIntegerToFloat", inputs if inputs[-1] is not None else inputs[:-1], [output], name=base, domain=MICROSOFT)
        take_output(output, last.outputs[0])
        for gone in dict.fromkeys((last, node)):
            graph.remove(gone, safe=True)

    def _integers(self, value: ir.Value | None, graph: ir.Graph) -> list[ir.Value]:
        """An activation's integers, scale and zero point, found at run time; once for all that take it."""
        assert value is not None
        if (value, graph) not in self._quantized:
            made = [ir.Value(name=self.names.fresh(f"{value.name}_{part}")) for part in ("quantized", "scale", "zero_point")]
            add_node(graph, "DynamicQuantizeLinear", [value], made, name=self.names.fresh(f"{value.name}_DynamicQuantizeLinear"))
            self._quantized[value, graph] = made
        return self._quantized[value, graph]

    def _bias(self, base: str, given: ir.Value | None, weight: QuantizedWeight) -> ir.Value | None:
        """The bias [channels] with what rounding shifts the output by."""
        known = constant(given)
        if (given is None and weight.shift is None) or (given is not None and known is None):
            return given
        total = np.zeros(len(weight.scales))
        for part in (known, weight.shift):
            total += 0 if part is None else part.reshape(-1)
        return self._constant(f"{base}_bias", total.astype(np.float32))

    def _constant(self, name: str, array: Array) -> ir.Value:
        return add_initializer(self.model.graph, self.names.fresh(name), np.ascontiguousarray(array))
