"""`--mode dynamic`: int8 weights, activations quantized at run time with the range that each has just then.

Convolutions stay float: ConvInteger takes longer than a float convolution (docs/results.md).
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxq.calibration.collect import collect_moments
from onnxq.calibration.moments import LayerInput, Moments
from onnxq.data.samples import check_feeds
from onnxq.formats.attention import fuse_attention
from onnxq.formats.embedding_tables import find_tables
from onnxq.formats.joint_products import few_rows, join_products
from onnxq.formats.lstm import quantize_lstms
from onnxq.formats.matmul_nbits import BitsWriter
from onnxq.formats.recipe import Recipe
from onnxq.formats.run_time_ranges import Product, RunTimeWriter, bias_with_shift
from onnxq.graph.edit import input_at, nodes_of, tidy
from onnxq.modes.embeddings import code_tables
from onnxq.modes.products import outcome, plan_products
from onnxq.options import Effort, QuantizeOptions, Target, Technique
from onnxq.plan.plan import Plan
from onnxq.plan.products import channel_axis, following_bias
from onnxq.plan.shapes import planned_shapes
from onnxq.quantization.weights import Use, WeightOptions, layer_inputs, quantize_weight, sharing
from onnxq.search.inputs import Inputs
from onnxq.search.lstm import quantized_lstms
from onnxq.search.references import References
from onnxq.search.trial import Outcome
from onnxq.techniques.saturation import kernel_order
from onnxq.transforms.registry import transforms, weight_techniques, with_techniques

NO_BIAS = np.float32(1e10)
"""A step of the activations so wide that no bias would overflow: biases stay float here, no weight's scale has to grow for them."""
TABLE_BLOCK = 128
"""Values of an embedding that share a scale."""


def quantize_dynamic(inputs: Inputs, references: References | None = None) -> Outcome:
    """Quantize products and LSTMs whose activations get their ranges at run time.

    With calibration samples the weights are rounded by them, and activations are smoothed where validation samples say
    that it helps.
    """
    options, calibration = inputs.options, inputs.samples.calibration
    plan = plan_products(inputs.model, inputs.selection)
    moments: Mapping[LayerInput, Moments] = {}
    fused = False
    if calibration and plan.nodes:
        feeds = check_feeds(calibration[0], inputs.specs)
        fused = few_rows(plan, plan.nodes, planned_shapes(inputs.model, plan, feeds))
        layers = layer_inputs(plan).values()
        second = options.effort is not Effort.FAST
        moments = collect_moments(inputs.model, layers, calibration, second=second)
    # plain, and rewritten by transforms of products
    weights = _weight_options(options, known_inputs=bool(moments))
    used = weight_techniques(options.without) if moments else []
    forms = [(inputs.model, plan, moments, list[str](used))]
    if moments and references is not None:
        for each in transforms(options.effort, options.without):
            found = None if each.rewrite is None else each.rewrite(inputs.model, plan, moments, None)
            if found is not None:
                again = plan_products(found.model, inputs.selection)
                forms.append((found.model, again, found.moments, [each.name, *used]))
    tried = [
        (_write(source, each, known, weights, fused=fused), each, names)
        for source, each, known, names in forms
    ]
    if references is not None and len(tried) > 1:
        model, plan, techniques = max(tried, key=lambda each: references.sqnr_db(each[0]))
    else:
        model, plan, techniques = tried[0]
    # LSTMs
    lstms, refused = quantized_lstms(inputs, references)
    quantize_lstms(model, lstms)
    for name in lstms:
        plan.floats.pop(name, None)
    for name, reason in refused.items():
        plan.floats[name] = plan.floats[name][0], reason
    notes = [f"{len(lstms)} LSTMs with int8 weights"] if lstms else []
    split = [Technique.SPLIT] if any(form.split for form in lstms.values()) else []
    recipe = Recipe(inputs.model, plan, inputs.selection, techniques=(*techniques, *split))
    return outcome(inputs, model, recipe, notes, len(lstms))


def _weight_options(options: QuantizeOptions, *, known_inputs: bool) -> WeightOptions:
    safe = Technique.NO_SATURATION not in options.without
    plain = WeightOptions(options.per_channel, options.target if safe else Target.VNNI)
    return with_techniques(plain, weight_techniques(options.without) if known_inputs else [])


def _write(
    source: ir.Model,
    plan: Plan,
    moments: Mapping[LayerInput, Moments],
    options: WeightOptions,
    *,
    fused: bool,
) -> ir.Model:
    """Return a copy whose products run as MatMulIntegerToFloat; those that share an activation quantize it once."""
    writer = RunTimeWriter(source.clone())
    nodes = {node.name: node for node in nodes_of(writer.model)}
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
    if fused:
        join_products(writer.model)
        fuse_attention(writer.model)
    return writer.model
