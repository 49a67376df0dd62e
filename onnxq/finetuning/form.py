"""The training form of a quantized model: a graph of float operators with everything trained as an input."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxq.finetuning.integer_product import Product
from onnxq.finetuning.trained import Bias, Scale, Trained, Values
from onnxq.finetuning.trained_weights import Growth, Weight
from onnxq.formats.recipe import Recipe
from onnxq.graph.edit import Names, tidy
from onnxq.quantization.parameters import Parameters
from onnxq.types import Array, Floats


@dataclass(frozen=True, eq=False)
class TrainingForm:
    """A QDQ model whose trained values are inputs.

    model       the model; its standard operators compute in float between Q/DQ pairs
    trained     what is trained, by the name of its input; growths by other names
    recipe      the recipe that made it
    parameters  the recipe's parameters at the start
    rounded     names of the values that stand for the recipe's tensors, by their name
    """

    model: ir.Model
    trained: Mapping[str, Trained]
    recipe: Recipe
    parameters: Parameters
    rounded: Mapping[str, str]

    def start(self) -> dict[str, Floats]:
        """Return the trained values at the start."""
        return {name: each.start for name, each in self.trained.items()}

    def real(self, values: Values) -> dict[str, Floats]:
        """Return the values that another form of the same recipe can start with."""
        weights = {name: each for name, each in self.trained.items() if isinstance(each, Weight)}
        return {
            name: value * weights[name].unit if name in weights else value for name, value in values.items()
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
        found = {
            name: each.fed(values[name])
            for name, each in self.trained.items()
            if not isinstance(each, Growth)
        }
        for name, each in self.growths.items():
            found[each.weight] = found[each.weight] * each.factor(values[name])
        return found

    def gradients(self, values: Values, fed: Values, found: Values) -> dict[str, Floats]:
        """Return the gradients of trained values from those of the inputs of the graph.

        Args:
            values: the trained values.
            fed: the inputs of the graph that they give.
            found: gradients of the inputs that have one.
        """
        result = dict[str, Floats]()
        for name, gradient in found.items():
            each = self.trained[name]
            unit: Any = fed[name] if isinstance(each, Scale) else each.unit  # type: ignore[union-attr]
            result[name] = np.asarray(gradient * unit, np.float32)
        for name, growth in self.growths.items():
            if growth.weight in found:
                result[growth.weight] = result[growth.weight] * growth.factor(values[name])
                result[name] = growth.gradient(found[growth.weight] * fed[growth.weight])
        return result

    @property
    def weights(self) -> list[str]:
        """Return the names of the weights."""
        return [name for name, each in self.trained.items() if isinstance(each, Weight)]

    @property
    def growths(self) -> dict[str, Growth]:
        """Return the growths of weight scales by name."""
        return {name: each for name, each in self.trained.items() if isinstance(each, Growth)}

    def sent(self, values: Values) -> dict[str, Array | Product]:
        """Return the inputs of the graph in the form in which they travel: weights as their integers."""
        factors = {each.weight: each.factor(values[name]) for name, each in self.growths.items()}
        return {
            name: each.sent(values[name], factors[name])
            if isinstance(each, Weight)
            else each.fed(values[name])
            for name, each in self.trained.items()
            if not isinstance(each, Growth)
        }


def with_inputs(
    model: ir.Model, found: Iterable[tuple[ir.Value, Weight | Bias | Scale]]
) -> dict[str, Trained]:
    """Replace values of a model by inputs, in place; return the trained values by the names of these."""
    names, trained = Names(model), dict[str, Trained]()
    for value, each in found:
        given = ir.Value(
            name=names.fresh(f"trained_{value.name}"),
            type=ir.TensorType(ir.DataType.FLOAT),
            shape=ir.Shape(each.fed(each.start).shape),
        )
        ir.convenience.replace_all_uses_with(value, given)
        model.graph.inputs.append(given)
        trained[given.name or ""] = each
    tidy(model)
    for value in list(model.graph.initializers.values()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[value.name or ""]
    return trained


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
