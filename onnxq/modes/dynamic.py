"""`--mode dynamic`: int8 weights; activations are quantized at run time with their current range.

Convolutions stay float, because ConvInteger is slower than a float convolution (docs/results.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.calibration.collect import MomentOptions, collect_moments
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
from onnxq.options import Effort, Technique
from onnxq.plan.plan import Plan
from onnxq.plan.products import channel_axis, following_bias
from onnxq.plan.shapes import planned_shapes
from onnxq.quantization.weights import Use, WeightOptions, layer_inputs, quantize_weight, sharing
from onnxq.search.inputs import Inputs
from onnxq.search.lstm import quantized_lstms
from onnxq.search.references import References
from onnxq.search.trial import Outcome
from onnxq.techniques.saturation import kernel_order
from onnxq.transforms.registry import transforms, weight_options, weight_techniques

NO_BIAS = np.float32(1e10)
"""An activation scale with which no bias overflows: biases stay float, so no weight scale has to grow."""
TABLE_BLOCK = 128
"""Number of values of an embedding that share a scale."""


def quantize_dynamic(inputs: Inputs, references: References | None = None) -> Outcome:
    """Quantize products and LSTMs whose activations get their ranges at run time.

    With calibration samples, rounding techniques are applied to the weights, and transforms that bring the
    outputs closer to float on the validation samples.
    """
    forms, fused = _forms(inputs, with_transforms=references is not None)
    # the form closest to float
    known_inputs = bool(forms[0].moments)
    techniques = weight_techniques(inputs.options.without) if known_inputs else []
    weights = weight_options(inputs.options, inputs.target.saturates, techniques)
    written = [(_write(form, weights, fused=fused), form) for form in forms]
    if references is not None and len(written) > 1:
        model, form = max(written, key=lambda each: references.sqnr_db(each[0]))
    else:
        model, form = written[0]
    # LSTMs
    plan = form.plan
    lstms, refused = quantized_lstms(inputs, references)
    quantize_lstms(model, lstms)
    for name in lstms:
        plan.floats.pop(name, None)
    for name, reason in refused.items():
        plan.floats[name] = plan.floats[name][0], reason
    # the report
    notes = [f"{len(lstms)} LSTMs with int8 weights"] if lstms else []
    split = [Technique.SPLIT] if any(each.split for each in lstms.values()) else []
    together = (*form.techniques, *techniques, *split)
    recipe = Recipe(inputs.model, plan, inputs.selection, techniques=together)
    return outcome(inputs, model, recipe, notes, len(lstms))


@dataclass(frozen=True)
class _Form:
    """A form of the model: plain, or rewritten by transforms, with the moments of its products' inputs."""

    model: ir.Model
    plan: Plan
    moments: Mapping[LayerInput, Moments]
    techniques: tuple[str, ...] = ()


def _forms(inputs: Inputs, *, with_transforms: bool) -> tuple[list[_Form], bool]:
    """Return the forms to compare, the plain one first, and whether products see few rows."""
    options, calibration = inputs.options, inputs.samples.calibration
    plan = plan_products(inputs.model, inputs.selection)
    if not calibration or not plan.nodes:
        return [_Form(inputs.model, plan, {})], False
    fused = few_rows(
        plan, plan.nodes, planned_shapes(inputs.model, plan, check_feeds(calibration[0], inputs.specs))
    )
    second = options.effort is not Effort.FAST
    moments = collect_moments(
        inputs.model, layer_inputs(plan).values(), calibration, MomentOptions(second), inputs.executor
    )
    forms = [_Form(inputs.model, plan, moments)]
    for each in transforms(options.effort, options.without) if moments and with_transforms else []:
        found = None if each.rewrite is None else each.rewrite(inputs.model, plan, moments, None)
        if found is not None:
            replanned = plan_products(found.model, inputs.selection)
            forms.append(_Form(found.model, replanned, found.moments, (each.name,)))
    return forms, fused


def _write(form: _Form, options: WeightOptions, *, fused: bool) -> ir.Model:
    """Return a copy whose products run as MatMulIntegerToFloat; a shared activation is quantized once."""
    writer = RunTimeWriter(form.model.clone())
    plan, nodes = form.plan, {node.name: node for node in nodes_of(writer.model)}
    layers = layer_inputs(plan)
    # products
    for names in sharing(plan):
        uses = [
            Use(plan.nodes[name], NO_BIAS, form.moments.get(layers[name]) if name in layers else None)
            for name in names
        ]
        for name, weight in zip(names, quantize_weight(uses, options, always_shift=True), strict=True):
            planned = plan.nodes[name]
            bias_add = following_bias(planned)
            follower = (nodes[bias_add[0].name], bias_add[1]) if bias_add is not None else None
            bias = input_at(nodes[name], 2) if follower is None else follower[0].inputs[follower[1]]
            axis = channel_axis(planned)
            stored = kernel_order(weight.stored, axis).T
            product = Product(
                stored, weight.scales, bias_with_shift(bias, weight), (planned.node.inputs[1], axis)
            )
            writer.replace(nodes[name], nodes[name].inputs[0], product, follower)
    # embedding tables
    code_tables(BitsWriter(writer.model, 0), find_tables(writer.model), TABLE_BLOCK)
    tidy(writer.model)
    # fused operators
    if fused:
        join_products(writer.model)
        fuse_attention(writer.model)
    return writer.model
