"""The training form of a recipe: its QDQ file with everything that is trained as an input."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxq.errors import ModelError
from onnxq.finetuning.form import TrainingForm, with_inputs
from onnxq.finetuning.tape import LEAST_OPSET
from onnxq.finetuning.trained import Bias, Scale, Values
from onnxq.finetuning.trained_weights import CELL, SCALE_RANGE, ChannelGrowth, ChannelWeight, Growth
from onnxq.formats.qdq import QdqWriter
from onnxq.formats.recipe import Recipe
from onnxq.formats.run_time_ranges import with_clamps
from onnxq.graph.edit import Names, add_node, constant, nodes_of, tidy
from onnxq.graph.shapes import opset_of
from onnxq.plan.plan import Plan, PlannedNode
from onnxq.plan.products import channel_axis, following_bias
from onnxq.quantization.parameters import Parameters, Place, QuantizedConstant
from onnxq.quantization.weights import WeightOptions, must_be_pair_safe
from onnxq.techniques.arithmetic import (
    along,
    asymmetric_params,
    bias_params,
    dequantize,
    quantize,
    quantize_bias,
)
from onnxq.types import INT8, INT32, Floats


def training_form(recipe: Recipe, parameters: Parameters, options: WeightOptions) -> TrainingForm:
    """Write the training form of a recipe.

    Raises:
        ModelError: its opset is too old for Q/DQ nodes of the standard.
    """
    if opset_of(recipe.model) < LEAST_OPSET:
        raise ModelError(
            f"finetuning needs opset {LEAST_OPSET}, and that of the model, {opset_of(recipe.model)}, "
            "cannot be raised: export it again with a newer one"
        )
    plan = recipe.plan
    run_time = [name for name in recipe.run_time if name in plan.nodes]
    plain = with_clamps(plan, run_time)
    parameters = _with_following_biases(plan, parameters)
    writer = QdqWriter(recipe.model, plain, parameters)
    model = writer.write()
    _round_at_run_time(model, run_time)
    found: dict[str, tuple[ir.Value, ChannelWeight | Bias | Scale]] = {}
    for value, weight in _weights(writer, recipe, parameters, options):
        found[value.name or ""] = value, weight
    for value, bias in _biases(writer, parameters):
        found[value.name or ""] = value, bias
    for source, (scale, _) in writer.scales.items():
        trained = _scale(plan, source, parameters)
        if trained is not None and any(use.node.graph is model.graph for use in scale.uses()):
            found[scale.name or ""] = scale, trained
    inputs = with_inputs(model, found.values())
    for name, entry in list(inputs.items()):
        if isinstance(entry, ChannelWeight):
            zeros = np.zeros(np.shape(entry.params.scale), np.float32)
            inputs[f"{name}_growth"] = ChannelGrowth(name, zeros, entry.params.axis, entry.start.ndim)
    left = {value for node in model.graph for value in node.outputs}
    rounded = {name: value.name or "" for name, value in writer.rounded.items() if value in left}
    return TrainingForm(model, inputs, recipe, parameters, rounded)


def updated(form: TrainingForm, values: Values) -> Parameters:
    """Return the parameters of a form's recipe with the trained values."""
    old = form.parameters
    result = Parameters(dict(old.activations), dict(old.constants), dict(old.replaced))
    biases: dict[Place, Floats] = {}
    # scales, weights, floats
    stored: dict[int, QuantizedConstant] = {}
    grown = {each.weight: np.exp(values[name]) for name, each in form.growths.items()}
    for name, each in form.trained.items():
        if isinstance(each, Growth):
            continue
        if isinstance(each, Scale):
            params = old.activations[each.source]
            result.activations[each.source] = replace(params, scale=each.fed(values[name]))
        elif isinstance(each, ChannelWeight):
            integers = each.integers(values[name]).astype(np.int8)
            params = replace(each.params, scale=np.asarray(each.params.scale * grown[name], np.float32))
            stored[id(old.constants[each.place].stored)] = QuantizedConstant(integers, params)
        elif isinstance(each, Bias) and each.stored:
            real = np.asarray(values[name] * each.unit, np.float32)
            params = asymmetric_params(float(real.min()), float(real.max()))
            result.constants[each.place] = QuantizedConstant(quantize(real, params), params)
        elif isinstance(each, Bias) and each.place in old.constants:
            biases[each.place] = each.fed(values[name])
        elif isinstance(each, Bias):
            result.replaced[each.place] = each.fed(values[name])
    for place, constant_ in old.constants.items():
        if id(constant_.stored) in stored:
            result.constants[place] = stored[id(constant_.stored)]
    # biases: their scale is the product of two others
    for planned in form.recipe.plan.nodes.values():
        row = planned.row
        if row.bias is None or row.weight is None or (planned.name, row.bias) not in old.constants:
            continue
        place = planned.name, row.bias
        known = old.constants[place]
        source = form.recipe.plan.tensors[_activation(planned)].source
        weight = result.constants[planned.name, row.weight]
        kind = bias_params(result.activations[source].scale, weight.params.scale)
        real = biases.get(place, dequantize(known.stored, known.params))
        result.constants[place] = QuantizedConstant(quantize_bias(real, kind), kind)
    return result


def _activation(planned: PlannedNode) -> str:
    value = planned.node.inputs[planned.activations[0]]
    assert value is not None
    return value.name or ""


def _with_following_biases(plan: Plan, parameters: Parameters) -> Parameters:
    """Return parameters that list the float constant added behind each product, so that it is trained."""
    replaced = dict(parameters.replaced)
    for planned in plan.nodes.values():
        place = following_bias(planned)
        if place is not None:
            node, index = place
            key = node.name or "", index
            array = constant(node.inputs[index])
            if key not in parameters.constants and key not in replaced and array is not None:
                replaced[key] = array
    return replace(parameters, replaced=replaced)


def _round_at_run_time(model: ir.Model, names: list[str]) -> None:
    """Replace the calibrated Q/DQ pairs of products by ones that find their range in every run."""
    nodes, fresh = {node.name: node for node in nodes_of(model)}, Names(model)
    made: dict[ir.Value, ir.Value] = {}
    for name in names:
        node = nodes[name]
        dequantizer = node.inputs[0].producer() if node.inputs[0] is not None else None
        quantizer = dequantizer.inputs[0].producer() if dequantizer and dequantizer.inputs[0] else None
        assert quantizer is not None
        value, graph = quantizer.inputs[0], node.graph
        assert value is not None
        assert isinstance(graph, ir.Graph)
        if value not in made:
            parts = [
                ir.Value(name=fresh.fresh(f"{value.name}_{part}")) for part in ("integers", "step", "zero")
            ]
            made[value] = ir.Value(
                name=fresh.fresh(f"{value.name}_rounded"), shape=value.shape, type=value.type
            )
            add_node(graph, "DynamicQuantizeLinear", [value], parts, name=fresh.fresh(f"{value.name}_find"))
            add_node(
                graph, "DequantizeLinear", list(parts), [made[value]], name=fresh.fresh(f"{value.name}_round")
            )
        node.replace_input_with(0, made[value])
    tidy(model)


def _weights(
    writer: QdqWriter, recipe: Recipe, parameters: Parameters, options: WeightOptions
) -> list[tuple[ir.Value, ChannelWeight]]:
    """Return the weights of the main graph with their values; uses that share integers share a value."""
    found, values = list[tuple[ir.Value, ChannelWeight]](), dict[int, ir.Value]()
    for planned in recipe.plan.nodes.values():
        if planned.row.weight is None or planned.node.graph is not recipe.model.graph:
            continue
        place = planned.name, planned.row.weight
        quantized, value = parameters.constants[place], writer.constants[place]
        first = values.get(id(quantized.stored))
        if first is not None:
            ir.convenience.replace_all_uses_with(value, first)
            continue
        values[id(quantized.stored)] = value
        array = constant(planned.node.inputs[planned.row.weight])
        assert array is not None
        params, axis = quantized.params, channel_axis(planned)
        steps = array.astype(np.float32) / along(params.scale, params.axis, array.ndim)
        stored = quantized.stored.astype(np.float32)
        start = np.clip(steps, stored - CELL, stored + CELL).astype(np.float32)
        safe = must_be_pair_safe(planned, options)
        found.append((value, ChannelWeight(array, start, axis, place, params, options.limit, safe)))
    return found


def _biases(writer: QdqWriter, parameters: Parameters) -> list[tuple[ir.Value, Bias]]:
    """Return the biases and constant operands of the main graph with their values."""
    found: list[tuple[ir.Value, Bias]] = []
    for place, value in writer.constants.items():
        quantized = parameters.constants.get(place)
        if quantized is None:
            real = parameters.replaced[place].astype(np.float32)
        elif quantized.params.type is INT8:
            continue
        else:
            real = dequantize(quantized.stored, quantized.params)
        if any(use.node.graph is not writer.graph for use in value.uses()):
            continue
        stored = quantized is not None and quantized.params.type is not INT32
        found.append((value, Bias(place, real, np.ones((), np.float32), stored)))
    return found


def _scale(plan: Plan, source: str, parameters: Parameters) -> Scale | None:
    """Return the trained form of a tensor's scale; None where it must stay as it is."""
    if any(
        tensor.ramp is not None and source in (tensor.name, tensor.ramp.source)
        for tensor in plan.tensors.values()
    ):
        return None
    tensors = [tensor for tensor in plan.tensors.values() if tensor.source == source]
    if any(tensor.known is not None for tensor in tensors):
        return None
    params = parameters.activations[source]
    zero, most = int(params.zero_point), float(params.scale) * SCALE_RANGE[1]
    for tensor in tensors:
        low, high = tensor.bounds or (-np.inf, np.inf)
        for bound, steps in ((high, params.type.high - zero), (-low, zero - params.type.low)):
            if steps:
                most = min(most, bound / steps)
    return Scale(source, float(params.scale), max(most, float(params.scale)))


def with_bits(form: TrainingForm, limit: int) -> TrainingForm:
    """Return the form with weights of other bits over the same range, which start at the float weights.

    Args:
        form: the training form.
        limit: largest magnitude of an integer.
    """
    trained = dict(form.trained)
    for name, each in trained.items():
        if isinstance(each, ChannelWeight):
            ratio = np.float32(each.limit / limit)
            params = replace(each.params, scale=np.asarray(each.params.scale * ratio, np.float32))
            start = np.asarray(each.origin / along(params.scale, params.axis, each.start.ndim), np.float32)
            trained[name] = replace(
                each,
                params=params,
                start=np.clip(start, -limit - CELL, limit + CELL),
                limit=limit,
                pair_safe=False,
            )
    return replace(form, trained=trained)
