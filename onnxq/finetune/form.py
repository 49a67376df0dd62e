"""The training form of a recipe: its QDQ file with everything that is trained as an input."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxq.errors import ModelError
from onnxq.finetune.integer_product import Product
from onnxq.finetune.tape import LEAST_OPSET
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
from onnxq.techniques.saturation import kernel_order, original_order, round_pair_safe
from onnxq.types import INT8, INT32, Array, Floats, QuantParams

CELL = 0.25
"""Farthest distance of a latent weight from its integer at the start, in steps.

Closer to the edge of the cell, the first steps undo what GPTQ chose: half of these weights flip by chance.
"""
SCALE_RANGE = 0.5, 2.0
"""Bounds of a trained scale, as multiples of the calibrated one: biases keep their room in int32."""


@dataclass(frozen=True, eq=False)
class Weight:
    """A quantized weight; the trained value is the weight in steps of its scale.

    place      of one of its uses
    params     parameters of the stored integers
    origin     the float weight
    start      trained value at the start, in the shape of the weight
    limit      largest magnitude of an integer
    axis       channel axis
    pair_safe  whether pairs obey the pair rule
    """

    place: Place
    params: QuantParams
    origin: Floats
    start: Floats
    limit: int
    axis: int
    pair_safe: bool

    @property
    def unit(self) -> Floats:
        """Real value of one step, which broadcasts to the weight."""
        return along(self.params.scale, self.params.axis, self.start.ndim)

    def integers(self, value: Floats) -> Floats:
        """Return the integers of a trained value, as floats: rounded, within the limit, and pair-safe."""
        if not self.pair_safe:
            return np.clip(np.rint(value), -self.limit, self.limit)
        rows = kernel_order(value, self.axis)
        stored = round_pair_safe(rows, np.ones(len(rows), np.float32))
        return original_order(stored.astype(np.float32), value.shape, self.axis)

    def fed(self, value: Floats) -> Floats:
        """Return the weight that the graph computes with."""
        return np.asarray(self.integers(value) * self.unit, np.float32)

    def clipped(self, value: Floats) -> Floats:
        """Return a trained value within the range."""
        return np.clip(value, -self.limit - CELL, self.limit + CELL)


@dataclass(frozen=True, eq=False)
class Bias:
    """A float constant that is added to each channel; the trained value is the bias in `unit`s.

    place   of the constant
    start   trained value at the start
    unit    real value of one unit
    params  parameters with which it is stored; None for int32 biases and floats
    """

    place: Place
    start: Floats
    unit: Floats
    stored: bool = False

    def fed(self, value: Floats) -> Floats:
        """Return the bias that the graph computes with."""
        real = np.asarray(value * self.unit, np.float32)
        if not self.stored:
            return real
        params = asymmetric_params(float(real.min()), float(real.max()))
        return np.asarray(dequantize(quantize(real, params), params), np.float32)

    def clipped(self, value: Floats) -> Floats:
        """Return the value: a bias has no range."""
        return value


@dataclass(frozen=True, eq=False)
class Scale:
    """The scale of an activation; the trained value is the logarithm of its growth.

    source   name of the tensor
    initial  calibrated scale
    most     largest scale with which the stored range lies inside that of a clamp
    """

    source: str
    initial: float
    most: float

    @property
    def start(self) -> Floats:
        """Return the trained value at the start."""
        return np.zeros((), np.float32)

    @property
    def unit(self) -> Floats:
        """Derivative of the scale at the start."""
        return np.asarray(self.initial, np.float32)

    def fed(self, value: Floats) -> Floats:
        """Return the scale."""
        if value == 0:
            return np.asarray(self.initial, np.float32)
        return np.asarray(min(self.initial * float(np.exp(value)), self.most), np.float32)

    def clipped(self, value: Floats) -> Floats:
        """Return a trained value within the range."""
        low, high = (float(np.log(each)) for each in SCALE_RANGE)
        return np.asarray(np.clip(value, low, min(high, float(np.log(self.most / self.initial)))), np.float32)


Trained = Weight | Bias | Scale
"""Something that is trained; `fed` is its value in the graph, where a trained value of 1 means `unit`."""
Values = Mapping[str, Floats]
"""Trained values by the name of their input."""


@dataclass(frozen=True, eq=False)
class TrainingForm:
    """A QDQ model whose trained values are inputs.

    model       the model; its standard operators compute in float between Q/DQ pairs
    trained     what is trained, by the name of its input
    recipe      the recipe that made it
    parameters  the recipe's parameters at the start
    """

    model: ir.Model
    trained: Mapping[str, Trained]
    recipe: Recipe
    parameters: Parameters

    def start(self) -> dict[str, Floats]:
        """Return the trained values at the start."""
        return {name: each.start for name, each in self.trained.items()}

    def real(self, values: Values) -> dict[str, Floats]:
        """Return the values that another form of the same recipe can start with."""
        return {
            name: value * self.trained[name].unit if isinstance(self.trained[name], Weight) else value
            for name, value in values.items()
        }

    def carried(self, real: Values | None) -> dict[str, Floats]:
        """Return trained values from those of another form (`real`); those at the start for None."""
        if real is None:
            return self.start()
        return {
            name: each.clipped(np.asarray(real[name] / each.unit, np.float32))
            if isinstance(each, Weight)
            else real[name]
            for name, each in self.trained.items()
        }

    def fed(self, values: Values) -> dict[str, Floats]:
        """Return the inputs of the graph."""
        return {name: each.fed(values[name]) for name, each in self.trained.items()}

    def sent(self, values: Values) -> dict[str, Array | Product]:
        """Return the inputs of the graph in the form in which they travel: weights as their integers."""
        return {
            name: Product(each.integers(values[name]).astype(np.int8), (each.unit,))
            if isinstance(each, Weight)
            else each.fed(values[name])
            for name, each in self.trained.items()
        }

    def updated(self, values: Values) -> Parameters:
        """Return the recipe's parameters with the trained values."""
        old = self.parameters
        result = Parameters(dict(old.activations), dict(old.constants), dict(old.replaced))
        biases: dict[Place, Floats] = {}
        # scales, weights, floats
        stored: dict[int, QuantizedConstant] = {}
        for name, each in self.trained.items():
            if isinstance(each, Scale):
                params = old.activations[each.source]
                result.activations[each.source] = replace(params, scale=each.fed(values[name]))
            elif isinstance(each, Weight):
                integers = each.integers(values[name]).astype(np.int8)
                stored[id(old.constants[each.place].stored)] = QuantizedConstant(integers, each.params)
            elif each.stored:
                real = np.asarray(values[name] * each.unit, np.float32)
                params = asymmetric_params(float(real.min()), float(real.max()))
                result.constants[each.place] = QuantizedConstant(quantize(real, params), params)
            elif each.place in old.constants:
                biases[each.place] = each.fed(values[name])
            else:
                result.replaced[each.place] = each.fed(values[name])
        for place, constant_ in old.constants.items():
            if id(constant_.stored) in stored:
                result.constants[place] = stored[id(constant_.stored)]
        # biases: their scale is the product of two others
        for planned in self.recipe.plan.nodes.values():
            row = planned.row
            if row.bias is None or row.weight is None or (planned.name, row.bias) not in old.constants:
                continue
            place = planned.name, row.bias
            known = old.constants[place]
            source = self.recipe.plan.tensors[_activation(planned)].source
            weight = result.constants[planned.name, row.weight]
            kind = bias_params(result.activations[source].scale, weight.params.scale)
            real = biases.get(place, dequantize(known.stored, known.params))
            result.constants[place] = QuantizedConstant(quantize_bias(real, kind), kind)
        return result


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
    found: dict[str, tuple[ir.Value, Trained]] = {}
    for value, each in [*_weights(writer, recipe, parameters, options), *_biases(writer, parameters)]:
        found[value.name or ""] = value, each
    for source, (scale, _) in writer.scales.items():
        trained = _scale(plan, source, parameters)
        if trained is not None and any(use.node.graph is model.graph for use in scale.uses()):
            found[scale.name or ""] = scale, trained
    names, trained_by_name = Names(model), {}
    for name, (value, each) in found.items():
        given = ir.Value(
            name=names.fresh(f"trained_{name}"),
            type=ir.TensorType(ir.DataType.FLOAT),
            shape=ir.Shape(each.fed(each.start).shape),
        )
        ir.convenience.replace_all_uses_with(value, given)
        model.graph.inputs.append(given)
        trained_by_name[given.name or ""] = each
    tidy(model)
    for value in list(model.graph.initializers.values()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[value.name or ""]
    return TrainingForm(model, trained_by_name, recipe, parameters)


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
) -> list[tuple[ir.Value, Trained]]:
    """Return the weights of the main graph with their values; uses that share integers share a value."""
    found, values = [], dict[int, ir.Value]()
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
        found.append((value, Weight(place, params, array, start, options.limit, axis, safe)))
    return found  # type: ignore[return-value]


def _biases(writer: QdqWriter, parameters: Parameters) -> list[tuple[ir.Value, Trained]]:
    """Return the biases and constant operands of the main graph with their values."""
    found: list[tuple[ir.Value, Trained]] = []
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
    """Return what is trained of a tensor's scale; None where it must stay as it is."""
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
        if isinstance(each, Weight):
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


def with_units(form: TrainingForm, units: Mapping[str, Floats]) -> TrainingForm:
    """Return the form with the units of its biases, by the name of their input."""
    trained = dict(form.trained)
    for name, unit in units.items():
        each = trained[name]
        assert isinstance(each, Bias)
        trained[name] = replace(each, start=(each.fed(each.start) / unit).astype(np.float32), unit=unit)
    return replace(form, trained=trained)


def bias_outputs(form: TrainingForm) -> dict[str, str]:
    """Return the name of the value to which each bias is added, by the name of the bias's input."""
    found = {}
    for value in form.model.graph.inputs:
        each = form.trained.get(value.name or "")
        if isinstance(each, Bias) and value.uses():
            node = next(iter(value.uses())).node
            while node.op_type == "DequantizeLinear":
                node = next(iter(node.outputs[0].uses())).node
            found[value.name or ""] = node.outputs[0].name or ""
    return found
