"""`--mode dynamic`: int8 weights, activations quantized at run time with the range that each has just then.

Convolutions stay float: ConvInteger takes longer than a float convolution (docs/results.md).
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxq.calibration.collect import collect_moments
from onnxq.calibration.moments import LayerInput, Moments
from onnxq.formats.attention import fuse_attention
from onnxq.formats.joint_products import few_rows, join_products
from onnxq.formats.lstm import quantize_lstms
from onnxq.formats.matmul_nbits import BitsWriter
from onnxq.formats.run_time_ranges import Product, RunTimeWriter, bias_with_shift
from onnxq.graph.edit import input_at, nodes_of, tidy
from onnxq.inputs import Job, planned_shapes
from onnxq.modes.embeddings import code_tables, find_tables
from onnxq.modes.products import Made, plan_products
from onnxq.options import Effort, Target, Technique
from onnxq.plan.plan import Plan
from onnxq.plan.products import channel_axis, following_bias
from onnxq.quantization.weights import Use, WeightOptions, layer_inputs, quantize_weight, sharing
from onnxq.search.lstm import quantized_lstms
from onnxq.search.references import References
from onnxq.techniques.saturation import kernel_order
from onnxq.transforms.smoothquant import smooth

NO_BIAS = np.float32(1e10)
"""A step of the activations so wide that no bias would overflow: biases stay float here, no weight's scale has to grow for them."""
TABLE_BLOCK = 128
"""Values of an embedding that share a scale."""


def quantize_dynamic(job: Job, references: References | None) -> Made:
    """With data weights are rounded by it and activations smoothed, where held-out samples say that it helps."""
    plan = plan_products(job.model, job.selection)
    moments: Mapping[LayerInput, Moments] = {}
    if job.calibration and plan.nodes:
        job.few_rows = few_rows(plan, plan.nodes, planned_shapes(job.model, plan, job.calibration[0].load()))
        moments = collect_moments(
            job.model,
            layer_inputs(plan).values(),
            job.calibration,
            second=job.options.effort is not Effort.FAST,
        )
    used = [
        each
        for each in (Technique.GPTQ, Technique.BIAS_CORRECTION)
        if moments and each not in job.options.without
    ]
    tried = [(_write(job, job.model, plan, moments), plan, list[str](used))]
    if moments and references is not None and Technique.SMOOTHING not in job.options.without:
        changed = smooth(job.model, plan, moments)
        if changed is not None:
            again = plan_products(changed.model, job.selection)
            tried.append(
                (_write(job, changed.model, again, changed.moments), again, [Technique.SMOOTHING, *used])
            )
        model, plan, techniques = max(tried, key=lambda each: references.sqnr_db(each[0]))
    else:
        model, plan, techniques = tried[0]
    lstms, refused = quantized_lstms(job, references)
    quantize_lstms(model, lstms)
    for name in lstms:
        plan.floats.pop(name, None)
    for name, reason in refused.items():
        plan.floats[name] = plan.floats[name][0], reason
    notes = [f"{len(lstms)} LSTMs with int8 weights"] if lstms else []
    divided = [Technique.SPLIT] if any(form.split for form in lstms.values()) else []
    return Made(model, plan, [*techniques, *divided], notes, len(lstms))


def _write(job: Job, source: ir.Model, plan: Plan, moments: Mapping[LayerInput, Moments]) -> ir.Model:
    """A copy whose products run as MatMulIntegerToFloat; those that share an activation quantize it once."""
    writer = RunTimeWriter(source.clone())
    nodes = {node.name: node for node in nodes_of(writer.model)}
    without, known_inputs = job.options.without, bool(moments)
    options = WeightOptions(
        job.options.per_channel,
        Target.VNNI if Technique.NO_SATURATION in without else job.options.target,
        gptq=known_inputs and Technique.GPTQ not in without,
        bias_correction=known_inputs and Technique.BIAS_CORRECTION not in without,
    )
    layers = layer_inputs(plan)
    for names in sharing(plan):
        uses = [
            Use(plan.nodes[name], NO_BIAS, moments.get(layers[name]) if name in layers else None)
            for name in names
        ]
        for name, weight in zip(names, quantize_weight(uses, options, always_shift=True), strict=True):
            planned = plan.nodes[name]
            behind = following_bias(planned)
            follower = (nodes[behind[0].name], behind[1]) if behind is not None else None
            given = input_at(nodes[name], 2) if follower is None else follower[0].inputs[follower[1]]
            axis = channel_axis(planned)
            stored = kernel_order(weight.stored, axis).T
            product = Product(
                stored, weight.scales, bias_with_shift(given, weight), (planned.node.inputs[1], axis)
            )
            writer.replace(nodes[name], nodes[name].inputs[0], product, follower)
    code_tables(BitsWriter(writer.model, 0), find_tables(writer.model), TABLE_BLOCK)
    tidy(writer.model)
    if job.few_rows:
        join_products(writer.model)
        fuse_attention(writer.model)
    return writer.model
