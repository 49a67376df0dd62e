"""Constant folding; the runtime itself computes the values."""

import math

import onnx
import onnx_ir as ir

from onnxq.errors import ModelError
from onnxq.graph.edit import attribute, constant_value, is_constant, sizes
from onnxq.graph.files import weight_bytes
from onnxq.runtime.sessions import open_session, run
from onnxq.types import Array

NOT_FOLDED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "RandomNormal", "RandomNormalLike", "RandomUniform",
     "RandomUniformLike", "Multinomial", "Bernoulli", "Loop", "If", "Scan", "SequenceConstruct"}
)  # fmt: skip
STORED_TYPES = frozenset({ir.DataType.INT8, ir.DataType.UINT8})
"""Types of stored weights that are widened."""
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
GROWTH, GROWTH_LIMIT = 4, 1 << 16
"""Folded results may have GROWTH times their sources' bytes (a Cast doubles them) plus GROWTH_LIMIT.

An Expand is better left.
"""
MOST_BYTES = 1 << 26
"""Bytes that a value on the way may have beyond GROWTH times all weights: a Range can ask for any amount."""


def fold_constants(model: ir.Model) -> bool:
    """Replace values that depend on no input by initializers, in place; return whether any was replaced."""
    return sum(_fold(model, graph) for graph in list(model.graphs())) > 0


def _fold(model: ir.Model, graph: ir.Graph) -> bool:
    folded: list[ir.Node] = []
    known: set[ir.Value] = set()
    most = GROWTH * weight_bytes(model) + MOST_BYTES
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        if (
            (inputs or node.op_type == "Constant")
            and (node.op_type not in NOT_FOLDED or stores_weight(node))
            and all(is_constant(value) or value in known for value in inputs)
            and not any(value.is_graph_output() or _known_bytes(value) > most for value in node.outputs)
        ):
            folded.append(node)
            known.update(node.outputs)
    inside = set(folded)
    wanted = [
        value
        for node in folded
        for value in node.outputs
        if value.uses() and any(use.node not in inside for use in value.uses())
    ]
    if not wanted:
        return False
    results = {v: a for v, a in _evaluate(model, folded, wanted).items() if a.dtype != object}
    given = {
        output
        for node in folded
        if node.op_type == "Constant"
        for output in node.outputs
        if output in results
    }
    sources = sum(results[value].nbytes for value in given)
    sources += sum(
        v.const_value.nbytes for n in folded for v in n.inputs if v is not None and v.const_value is not None
    )
    if sum(array.nbytes for array in results.values()) > GROWTH * sources + GROWTH_LIMIT:
        results = {
            value: array for value, array in results.items() if value in given or array.nbytes <= GROWTH_LIMIT
        }
    return _replace(model, graph, folded, results)


def stores_weight(node: ir.Node) -> bool:
    """Whether a DequantizeLinear only widens a stored 8-bit weight of products that compute in float.

    Where the other operand comes from a DequantizeLinear too, the product is quantized already.
    """
    if node.op_type != "DequantizeLinear" or attribute(node, "block_size", 0):
        return False
    weight = node.inputs[0]
    if weight is None or weight.dtype not in STORED_TYPES or not node.outputs[0].uses():
        return False
    return all(_computes_in_float(use.node, use.idx) for use in node.outputs[0].uses())


def _computes_in_float(node: ir.Node, index: int) -> bool:
    """Whether a node takes its operand `index` as the weight of a float product, perhaps transposed."""
    if node.op_type == "Transpose":
        uses = node.outputs[0].uses()
        return bool(uses) and all(_computes_in_float(use.node, use.idx) for use in uses)
    other = node.inputs[0]
    producer = other.producer() if other is not None else None
    quantized = producer is not None and producer.op_type == "DequantizeLinear"
    return node.op_type in PRODUCTS and index == 1 and not quantized


def _known_bytes(value: ir.Value) -> int:
    """Return the bytes of a value, 0 if its type or shape is unknown."""
    shape = sizes(value)
    return 0 if shape is None or value.dtype is None else math.prod(shape) * value.dtype.bitwidth // 8


def _evaluate(model: ir.Model, nodes: list[ir.Node], wanted: list[ir.Value]) -> dict[ir.Value, Array]:
    """Return the values of `wanted`, or no value if the runtime cannot compute them."""
    sources = {value for node in nodes for value in node.inputs if is_constant(value)}
    ordered = [value for value in model.graph.initializers.values() if value in sources]
    proto = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=[onnx.helper.make_opsetid(*item) for item in model.graph.opset_imports.items()],
        graph=onnx.GraphProto(
            name="constants",
            node=[ir.serde.serialize_node(node) for node in nodes],
            initializer=[
                ir.serde.serialize_tensor(value.const_value) for value in ordered if value.const_value
            ],
            output=[onnx.ValueInfoProto(name=value.name) for value in wanted],
        ),
    )
    part = ir.serde.deserialize_model(proto)
    for value in ordered:
        if isinstance(value.const_value, ir.ExternalTensor):
            part.graph.initializers[value.name or ""].const_value = value.const_value
    try:
        return dict(zip(wanted, run(open_session(part, optimize=False), {}, "of constants"), strict=True))
    except ModelError:
        return {}


def _replace(model: ir.Model, graph: ir.Graph, folded: list[ir.Node], results: dict[ir.Value, Array]) -> bool:
    new: list[tuple[str, ir.Value]] = []
    for value, array in results.items():
        name = value.name or ""
        constant = constant_value(array)
        ir.convenience.replace_all_uses_with(value, constant)
        new.append((name, constant))
    removed = False
    for node in reversed(folded):
        if not any(value.uses() for value in node.outputs):
            graph.remove(node, safe=True)
            removed = True
    for name, constant in new:
        constant.name = name
        model.graph.register_initializer(constant)
    return removed or bool(new)
