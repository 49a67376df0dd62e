"""The toggle model: every partly quantized form of a model in one float session.

To measure the noise of single nodes, many forms of a model are compared that differ in a few nodes. Writing
each form and opening a session takes longer than running it. Here each place that a plan may quantize stands
in an If with an input of its own: the weights and biases of a node, and each tensor in front of each of its
consumers. The body for the quantized form computes the rounded values in float: the stored integers times
their scale, and QuantizeLinear with DequantizeLinear. So the values are those of the integer kernels, apart
from the order of float additions and from saturation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.formats.qdq import integer_result, takes_integers
from onnxq.graph.edit import MICROSOFT, Names, add_initializer, constant, graph_of, nodes_of, tidy
from onnxq.graph.shapes import opset_of
from onnxq.normalize.opset import LEAST_OPSET
from onnxq.plan.operators import Role
from onnxq.plan.plan import Plan, PlannedNode, PlannedTensor
from onnxq.quantization.parameters import Parameters
from onnxq.techniques.arithmetic import dequantize
from onnxq.types import Array, Feeds

MOVING = frozenset({Role.VIEW, Role.RAMP})
"""Roles of nodes whose results need no rounding of their own behind a rounded operand."""


@dataclass(frozen=True)
class Use:
    """A tensor in front of a consumer.

    tensor    the tensor
    consumer  the planned node that takes it; None for all consumers that no plan quantizes
    """

    tensor: PlannedTensor
    consumer: PlannedNode | None

    def rounded(self, plan: Plan) -> bool:
        """Tell whether the consumer gets the tensor rounded under a plan."""
        if integer_result(plan, self.tensor.value):
            return True
        if self.consumer is None:
            return False
        node = self.consumer.node
        if any(takes_integers(plan, node, i) for i, x in enumerate(node.inputs) if x is self.tensor.value):
            return True
        # the tensor behind a node that only moves elements may be rounded instead
        return self.consumer.row.role in MOVING and any(each.name in plan.tensors for each in node.outputs)


@dataclass(frozen=True, eq=False)
class ToggleModel:
    """The model, and what its additional boolean inputs decide.

    model    the model
    weights  node whose weights are rounded, by input
    uses     tensor that is rounded, by input
    """

    model: ir.Model
    weights: Mapping[str, str]
    uses: Mapping[str, Use]

    def flags(self, plan: Plan) -> Feeds:
        """Return the additional inputs that make the model the form of a plan: a part of the full plan."""
        weights = {name: np.array(node in plan.nodes) for name, node in self.weights.items()}
        return weights | {name: np.array(use.rounded(plan)) for name, use in self.uses.items()}


def toggle_model(model: ir.Model, plan: Plan, parameters: Parameters) -> ToggleModel:
    """Return the toggle model of a plan with its parameters; the given model is not modified."""
    builder = _Builder(model, plan, parameters)
    builder.toggle_tensors()
    builder.toggle_weights()
    tidy(builder.model)
    return ToggleModel(builder.model, builder.weights, builder.uses)


class _Builder:
    """Edits of a copy of the model."""

    def __init__(self, model: ir.Model, plan: Plan, parameters: Parameters) -> None:
        self.plan, self.parameters = plan, parameters
        self.model = model.clone()
        self.names = Names(self.model)
        self.values = {value.name: value for node in nodes_of(self.model) for value in node.outputs}
        self.values |= {value.name: value for graph in self.model.graphs() for value in graph.inputs}
        self.domain = "" if opset_of(self.model) >= LEAST_OPSET else MICROSOFT
        if self.domain:
            self.model.graph.opset_imports[MICROSOFT] = 1
        self.weights: dict[str, str] = {}
        self.uses: dict[str, Use] = {}

    def toggle_tensors(self) -> None:
        """Put a choice between the tensor and its rounded form in front of each tensor's consumers."""
        for tensor in self.plan.tensors.values():
            if tensor.ramp is not None or tensor.source != tensor.name:
                continue
            value = self.values[tensor.name]
            by_consumer: dict[str | None, list[tuple[ir.Node, int]]] = {}
            for use in value.uses():
                planned = self.plan.nodes.get(use.node.name or "")
                by_consumer.setdefault(planned.name if planned is not None else None, []).append(
                    (use.node, use.idx)
                )
            if value.is_graph_output():
                by_consumer.setdefault(None, [])
            for name, uses in by_consumer.items():
                if name is None and not integer_result(self.plan, tensor.value):
                    continue  # no plan rounds it there
                self._toggle_use(tensor, value, name, uses)

    def _toggle_use(
        self, tensor: PlannedTensor, value: ir.Value, consumer: str | None, uses: list[tuple[ir.Node, int]]
    ) -> None:
        params = self.parameters.activations[tensor.source]
        scale, zero_point = (
            add_initializer(self.model.graph, self.names.fresh(f"{tensor.name}_{kind}"), array)
            for kind, array in (("scale", params.scale), ("zero_point", params.zero_point))
        )
        stored = ir.Value(
            name=self.names.fresh(f"{tensor.name}_quantized"),
            type=ir.TensorType(ir.DataType.from_numpy(params.type.dtype)),
        )
        rounded, same = self._like(value, "rounded"), self._like(value, "same")
        quantizer, dequantizer = (
            ir.Node(self.domain, op_type, [x, scale, zero_point], outputs=[y], name=self.names.fresh(op_type))
            for op_type, x, y in (
                ("QuantizeLinear", value, stored),
                ("DequantizeLinear", stored, rounded),
            )
        )
        identity = ir.Node("", "Identity", [value], outputs=[same], name=self.names.fresh("same"))
        planned = self.plan.nodes.get(consumer or "")
        chosen = self._like(value, "chosen")
        flag = self._choice(
            self._home(value), [quantizer, dequantizer], [identity], [(rounded, same, chosen)]
        )
        self.uses[flag] = Use(tensor, planned)
        for node, index in uses:
            node.replace_input_with(index, chosen)
        if consumer is None and value.is_graph_output():
            name, graph = value.name, self._home(value)
            for index, output in enumerate(graph.outputs):
                if output is value:
                    graph.outputs[index] = chosen
            value.name, chosen.name = self.names.fresh(f"{name}_float"), name

    def toggle_weights(self) -> None:
        """Put each node with quantized constants, and its float form, into an If."""
        nodes = {node.name: node for node in nodes_of(self.model)}
        places: dict[str, dict[int, Array]] = {}
        for (name, index), array in self.parameters.replaced.items():
            places.setdefault(name, {})[index] = array
        for (name, index), quantized in self.parameters.constants.items():
            places.setdefault(name, {})[index] = dequantize(quantized.stored, quantized.params)
        # the shift of a product's bias may stand in the Add behind it
        before = {name: node for node, planned in self.plan.nodes.items() for name in _behind(planned.node)}
        for name, arrays in places.items():
            owner = name if name in self.plan.nodes else before.get(name, name)
            self._toggle_constants(nodes[name], arrays, owner)

    def _toggle_constants(self, node: ir.Node, arrays: Mapping[int, Array], owner: str) -> None:
        graph = graph_of(node)
        rounded, plain = self._copy(node, arrays), self._copy(node, {})
        results = [self._like(value, "chosen") for value in node.outputs]
        outputs = list(zip(rounded.outputs, plain.outputs, results, strict=True))
        self.weights[self._choice(graph, [rounded], [plain], outputs)] = owner
        for value, result in zip(node.outputs, results, strict=True):
            name = value.name
            for use in list(value.uses()):
                use.node.replace_input_with(use.idx, result)
            for index, output in enumerate(graph.outputs):
                if output is value:
                    graph.outputs[index] = result
            value.name, result.name = self.names.fresh(f"{name}_before"), name
        graph.remove(node, safe=True)

    def _copy(self, node: ir.Node, arrays: Mapping[int, Array]) -> ir.Node:
        """Copy a node; its constants become those of the body that will hold it."""
        count = max(len(node.inputs), *(index + 1 for index in arrays), 0)
        inputs = list(node.inputs) + [None] * (count - len(node.inputs))
        for index, value in enumerate(inputs):
            array = arrays.get(index, constant(value))
            if array is not None:
                wish = (value.name if value is not None else None) or f"{node.name}_constant"
                held = ir.Value(name=self.names.fresh(wish), const_value=ir.tensor(array))
                held.shape, held.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
                inputs[index] = held
        return ir.Node(
            node.domain,
            node.op_type,
            inputs,
            list(node.attributes.values()),
            outputs=[self._like(value, "form") for value in node.outputs],
            name=self.names.fresh(f"{node.name}_form"),
        )

    def _choice(
        self,
        graph: ir.Graph,
        rounded: list[ir.Node],
        plain: list[ir.Node],
        outputs: list[tuple[ir.Value, ir.Value, ir.Value]],
    ) -> str:
        """Add an If with an input of its own; return the input's name.

        Args:
            graph: the graph that gets the If.
            rounded: nodes of the body where the input is true.
            plain: nodes of the other body.
            outputs: each output of the bodies, and of the If.
        """
        flag = ir.Value(
            name=self.names.fresh("toggle"), type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([])
        )
        self.model.graph.inputs.append(flag)
        bodies = []
        for number, nodes in enumerate((rounded, plain)):
            held = [v for node in nodes for v in node.inputs if v is not None and _is_new_constant(v)]
            ends = [each[number] for each in outputs]
            bodies.append(ir.Graph([], ends, nodes=nodes, initializers=held, name=self.names.fresh("body")))
        choice = ir.Node(
            "",
            "If",
            [flag],
            [ir.AttrGraph("then_branch", bodies[0]), ir.AttrGraph("else_branch", bodies[1])],
            outputs=[each[2] for each in outputs],
            name=self.names.fresh("choice"),
        )
        graph.append(choice)
        return flag.name or ""

    def _like(self, value: ir.Value, kind: str) -> ir.Value:
        name = self.names.fresh(f"{value.name}_{kind}")
        return ir.Value(name=name, type=value.type or ir.TensorType(ir.DataType.FLOAT))

    def _home(self, value: ir.Value) -> ir.Graph:
        producer = value.producer()
        if producer is not None:
            return graph_of(producer)
        return next(graph for graph in self.model.graphs() if value in graph.inputs)


def _behind(node: ir.Node) -> list[str]:
    return [use.node.name or "" for use in node.outputs[0].uses()]


def _is_new_constant(value: ir.Value) -> bool:
    return value.const_value is not None and value.producer() is None and not value.is_initializer()
