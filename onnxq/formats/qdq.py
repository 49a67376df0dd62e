"""QDQ format: float operators between DequantizeLinear and QuantizeLinear.

The runtime fuses DequantizeLinear -> operator -> QuantizeLinear into its integer kernels.
"""

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import MICROSOFT, Names, add_initializer, add_node, graph_of, input_at, nodes_of, tidy
from onnxq.graph.shapes import opset_of
from onnxq.plan.constraints import clamp_bounds
from onnxq.plan.operators import Role
from onnxq.plan.plan import Plan, PlannedTensor
from onnxq.quantization.parameters import Parameters, Place, QuantizedConstant
from onnxq.runtime.release import has_standard_qdq
from onnxq.techniques.arithmetic import clip_bounds
from onnxq.types import QuantParams


def integer_result(plan: Plan, value: ir.Value) -> bool:
    """Whether an integer kernel without a float output produces the value."""
    producer = value.producer()
    if producer is not None and producer.name not in plan.nodes and producer.op_type in ("Relu", "Clip"):
        producer = producer.inputs[0].producer() if producer.inputs[0] is not None else None
    planned = plan.nodes.get(producer.name or "") if producer is not None else None
    if planned is None:
        return False
    if planned.row.role is Role.VIEW:
        return True
    return planned.integer_output and planned.output.name == value.name


def takes_integers(plan: Plan, node: ir.Node, index: int) -> bool:
    """Whether a node's input carries integers."""
    planned = plan.nodes.get(node.name or "")
    return planned is not None and index in planned.activations


class QdqWriter:
    """Writer of a plan with its parameters into a copy of the normalized model.

    Once written, `constants` are the float values that stand for quantized and corrected constants, by place,
    `scales` the scale and zero point of each source tensor that has a quantizer, by name, and `rounded` the
    dequantized values in the main graph by the name of the tensor.
    """

    def __init__(self, model: ir.Model, plan: Plan, parameters: Parameters) -> None:
        self.model = model.clone()
        self.plan, self.parameters = plan, parameters
        self.graph = self.model.graph
        self.names = Names(self.model)
        self.nodes = {node.name: node for node in nodes_of(self.model)}
        self.values = {value.name: value for node in nodes_of(self.model) for value in node.outputs}
        self.values |= {value.name: value for graph in self.model.graphs() for value in graph.inputs}
        # the runtime's own Q/DQ have an axis at any opset
        self.domain = "" if has_standard_qdq(opset_of(self.model)) else MICROSOFT
        self.constants: dict[Place, ir.Value] = {}
        self.scales: dict[str, tuple[ir.Value, ir.Value]] = {}
        self.rounded: dict[str, ir.Value] = {}
        self._stored: dict[int, tuple[ir.Value, ir.Value, ir.Value]] = {}

    def write(self) -> ir.Model:
        """Return the quantized model."""
        for planned in self.plan.nodes.values():
            node = self.nodes[planned.name]
            for index in (*planned.constants, planned.row.weight, planned.row.bias):
                quantized = (
                    self.parameters.constants.get((planned.name, index)) if index is not None else None
                )
                if quantized is not None and index is not None:
                    wish = (input_at(node, index) or planned.output).name or "constant"
                    self._replace(node, index, self._constant(graph_of(node), wish, quantized))
        for (name, index), array in self.parameters.replaced.items():
            if (name, index) not in self.parameters.constants:
                node = self.nodes[name]
                fresh = self.names.fresh(f"{name}_corrected")
                self._replace(node, index, add_initializer(self.graph, fresh, array))
        for tensor in self.plan.tensors.values():
            if tensor.ramp is not None:
                self._ramp(tensor)
            else:
                self._activation(tensor)
        if self.domain:
            self.model.graph.opset_imports[MICROSOFT] = 1
        tidy(self.model)
        return self.model

    def _replace(self, node: ir.Node, index: int, value: ir.Value) -> None:
        """Replace an input, which may have been left out."""
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, value)
        self.constants[node.name or "", index] = value

    def _scale_and_zero_point(self, name: str, params: QuantParams) -> tuple[ir.Value, ir.Value]:
        return (
            add_initializer(self.graph, self.names.fresh(f"{name}_scale"), params.scale),
            add_initializer(self.graph, self.names.fresh(f"{name}_zero_point"), params.zero_point),
        )

    def _constant(self, graph: ir.Graph, name: str, quantized: QuantizedConstant) -> ir.Value:
        """Add a DequantizeLinear of stored integers for a float constant; shared integers are stored once."""
        params, same = quantized.params, id(quantized.stored)
        if same not in self._stored:
            integers = add_initializer(self.graph, self.names.fresh(f"{name}_quantized"), quantized.stored)
            self._stored[same] = integers, *self._scale_and_zero_point(name, params)
        stored, scale, zero_point = self._stored[same]
        output = ir.Value(
            name=self.names.fresh(f"{name}_dequantized"),
            shape=stored.shape,
            type=ir.TensorType(ir.DataType.FLOAT),
        )
        axis = {} if params.axis is None else {"axis": params.axis}
        add_node(
            graph, "DequantizeLinear", [stored, scale, zero_point], [output],
            name=self.names.fresh(f"{name}_DequantizeLinear"), domain=self.domain, **axis,
        )  # fmt: skip
        return output

    def _activation(self, tensor: PlannedTensor) -> None:
        """Put QuantizeLinear and DequantizeLinear behind a value, for its quantized consumers.

        The runtime fuses within one graph: a body that reads the value gets a pair of its own.
        """
        value = self.values[tensor.name]
        everywhere = integer_result(self.plan, value)
        wanting = [use for use in value.uses() if takes_integers(self.plan, use.node, use.idx)]
        home = self._home(value)
        uses = list(value.uses()) if everywhere else [use for use in wanting if use.node.graph is home]
        if uses or everywhere:
            source = self._without_clamp(value, len(uses), everywhere=everywhere)
            dequantized = self._pair(home, tensor, source)
            for use in uses:
                use.node.replace_input_with(use.idx, dequantized)
            if everywhere and value.is_graph_output():
                self._take_graph_output(home, value, dequantized)
            value = dequantized if everywhere else value
        for body in dict.fromkeys(graph_of(use.node) for use in wanting if use.node.graph is not home):
            inside = self._pair(body, tensor, value)
            for use in wanting:
                if use.node.graph is body:
                    use.node.replace_input_with(use.idx, inside)

    def _pair(self, graph: ir.Graph, tensor: PlannedTensor, source: ir.Value) -> ir.Value:
        """Add QuantizeLinear and DequantizeLinear behind `source`; return the dequantized value."""
        params = self.parameters.activations[tensor.source]
        scale, zero_point = self.scales.get(tensor.source) or self._scale_and_zero_point(
            tensor.source, params
        )
        self.scales[tensor.source] = scale, zero_point
        value = self.values[tensor.name]
        stored = ir.TensorType(ir.DataType.from_numpy(params.type.dtype))
        quantized = ir.Value(
            name=self.names.fresh(f"{tensor.name}_quantized"), shape=value.shape, type=stored
        )
        dequantized = ir.Value(
            name=self.names.fresh(f"{tensor.name}_dequantized"), shape=value.shape, type=value.type
        )
        for op_type, x, y in (
            ("QuantizeLinear", source, quantized),
            ("DequantizeLinear", quantized, dequantized),
        ):
            name = self.names.fresh(f"{tensor.name}_{op_type}")
            add_node(graph, op_type, [x, scale, zero_point], [y], name=name, domain=self.domain)
        if graph is self.graph:
            self.rounded[tensor.name] = dequantized
        return dequantized

    def _ramp(self, tensor: PlannedTensor) -> None:
        """Write a HardSigmoid as a Clip of its operand's integers, with its own scale and zero point."""
        value = self.values[tensor.name]
        node = value.producer()
        dequantizer = node.inputs[0].producer() if node is not None and node.inputs[0] is not None else None
        assert node is not None
        assert dequantizer is not None
        graph, params = graph_of(node), self.parameters.activations[tensor.name]
        stored, kind = dequantizer.inputs[0], params.type.dtype
        assert stored is not None
        clipped, ends = stored, clip_bounds(params)
        if ends != (params.type.low, params.type.high):
            bounds = [
                add_initializer(self.graph, self.names.fresh(f"{tensor.name}_bound"), np.array(end, kind))
                for end in ends
            ]
            clipped = ir.Value(
                name=self.names.fresh(f"{tensor.name}_quantized"), shape=value.shape, type=stored.type
            )
            add_node(
                graph, "Clip", [stored, *bounds], [clipped], name=self.names.fresh(f"{tensor.name}_Clip")
            )
        scale, zero_point = self._scale_and_zero_point(tensor.name, params)
        result = ir.Value(
            name=self.names.fresh(f"{tensor.name}_dequantized"), shape=value.shape, type=value.type
        )
        name = self.names.fresh(f"{tensor.name}_DequantizeLinear")
        add_node(
            graph, "DequantizeLinear", [clipped, scale, zero_point], [result], name=name, domain=self.domain
        )
        for use in list(value.uses()):
            use.node.replace_input_with(use.idx, result)
        if value.is_graph_output():
            self._take_graph_output(graph, value, result)

    def _home(self, value: ir.Value) -> ir.Graph:
        """Return the graph that produces a value."""
        producer = value.producer()
        if producer is not None:
            return graph_of(producer)
        return next(graph for graph in self.model.graphs() if value in graph.inputs)

    def _without_clamp(self, value: ir.Value, uses: int, *, everywhere: bool) -> ir.Value:
        """Return the value before a clamp if the integer range replaces the clamp for all consumers."""
        clamp = value.producer()
        tensor = self.plan.tensors[value.name or ""]
        if clamp is None or tensor.bounds is None or clamp_bounds(clamp) is None:
            return value
        needed_elsewhere = not everywhere and (len(value.uses()) > uses or value.is_graph_output())
        before = clamp.inputs[0]
        if needed_elsewhere or before is None or not self._range_inside(tensor):
            return value
        return before

    def _range_inside(self, tensor: PlannedTensor) -> bool:
        """Tell whether saturation replaces a clamp; an engine that computes 16 bits in float has none."""
        params = self.parameters.activations[tensor.source]
        if params.type.dtype.itemsize > 1:
            return False
        zero, scale = int(params.zero_point), float(params.scale)
        least, most = tensor.bounds or (0.0, 0.0)
        return (params.type.low - zero) * scale >= least and (params.type.high - zero) * scale <= most

    def _take_graph_output(self, graph: ir.Graph, value: ir.Value, dequantized: ir.Value) -> None:
        name = value.name
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = dequantized
        value.name = self.names.fresh(f"{name}_float")
        dequantized.name = name


def write_qdq(model: ir.Model, plan: Plan, parameters: Parameters) -> ir.Model:
    """Return the quantized model in QDQ format; the given model is not modified."""
    return QdqWriter(model, plan, parameters).write()
