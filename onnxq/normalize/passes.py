"""Bring any model into the form that the planner reads, without changing what it computes.

Functions and branches that are always taken inlined, states that no iteration changes read from outside, weights as
initializers, constants folded, what is computed twice computed once, BatchNorm and other per-channel arithmetic folded into the
Conv or Gemm before or behind it, opset at least 13 (per-channel quantization), float32 in place of other float types, every node
and value with a name of its own.
"""

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxq.graph.edit import nodes_of, tidy
from onnxq.graph.shapes import infer_shapes, opset_of
from onnxq.normalize.canonical import canonicalize
from onnxq.normalize.constant_branches import inline_branches
from onnxq.normalize.constants import fold_constants
from onnxq.normalize.float_types import compute_in_float32
from onnxq.normalize.fold_backward import fold_channel_arithmetic
from onnxq.normalize.fold_forward import fold_forward
from onnxq.normalize.foreign_types import ask_types
from onnxq.normalize.loop_invariants import read_invariants
from onnxq.normalize.reshapes import fix_reshapes

SAME_SIZES = 8
"""Elements up to which equal constants count as one, as for the runtime: axes and bounds that exporters repeat."""
LEAST_OPSET = 13
"""Q/DQ take an axis from opset 13 on."""


def normalize(model: ir.Model, *, lift: bool = True) -> ir.Model:
    """The normalized model, at the opset that Q/DQ want or at its own; the given one must not be used afterwards."""
    for step in (
        passes.InlinePass(),
        passes.RemoveUnusedOpsetsPass(),
    ):
        step(model)
    model = lift_opset(model) if lift else model
    passes.RemoveInitializersFromInputsPass()(model)
    bypass_dropout(model)
    remove_identities(model)
    passes.OutputFixPass()(model)  # the runtime gives garbage for a body that puts one value out twice
    passes.NameFixPass()(model)
    passes.LiftSubgraphInitializersToMainGraphPass()(model)
    name_all(model)
    infer_anew(model)
    if compute_in_float32(model) | ask_types(model):
        infer_shapes(model)
    fold_constants(model)
    if inline_branches(model) | read_invariants(model):
        infer_shapes(model)
        fold_constants(model)
    passes.DeduplicateInitializersPass(SAME_SIZES)(model)
    passes.CommonSubexpressionEliminationPass()(
        model
    )  # the runtime does so too, before it looks for integer kernels
    canonicalize(model)
    fold_channel_arithmetic(model)
    fold_forward(model)
    tidy(model)
    name_all(model)
    infer_shapes(model)
    if fix_reshapes(model):
        tidy(model)
        infer_shapes(model)
    return model


def lift_opset(model: ir.Model, least: int = LEAST_OPSET) -> ir.Model:
    """Convert to opset 13 (or another) where the model is older; left as it is where onnx cannot convert it.

    An older opset is no failure: the writer then uses the Q/DQ of the com.microsoft domain.
    """
    if opset_of(model) >= least:
        return model
    folders = {
        value.name: value.const_value.base_dir
        for value in model.graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    }
    try:
        proto = onnx.version_converter.convert_version(ir.serde.serialize_model(model), least)
        lifted = ir.serde.deserialize_model(proto)
    except Exception:  # the converter raises RuntimeError and others for operators without an adapter
        return model
    for value in lifted.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value.base_dir = folders[value.name]
    lifted.ir_version = max(model.ir_version, 7 if least == LEAST_OPSET else 10)
    return lifted


def bypass_dropout(model: ir.Model) -> None:
    """Dropout does nothing at inference: make it an Identity, which is removed with the others."""
    for graph in model.graphs():
        for node in list(graph):
            if node.op_type != "Dropout" or node.domain or len(node.inputs) > 2:
                continue
            if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
                continue
            identity = ir.Node("", "Identity", [node.inputs[0]], name=node.name)
            identity.outputs[0].name = node.outputs[0].name
            ir.convenience.replace_nodes_and_values(
                graph, node, [node], [identity], [node.outputs[0]], [identity.outputs[0]]
            )


def remove_identities(model: ir.Model) -> None:
    """Let what takes an Identity take its input; one that stands between an outer value, or another output, and an output stays.

    (onnx_ir's own pass fails where both branches of an If give the same outer value.)
    """
    for graph in model.graphs():
        for node in list(graph):
            if node.op_type != "Identity" or node.domain not in ("", "ai.onnx") or node.inputs[0] is None:
                continue
            before, after = node.inputs[0], node.outputs[0]
            if after.is_graph_output():
                producer = before.producer()
                if producer is None or producer.graph is not graph or before.is_graph_output():
                    continue
                before.name, after.name = after.name, None
            if before.type is None or before.shape is None:
                before.type, before.shape = before.type or after.type, before.shape or after.shape
            ir.convenience.replace_all_uses_with(after, before, replace_graph_outputs=True)
            graph.remove(node, safe=True)


def name_all(model: ir.Model) -> None:
    """Give each node and each value a name that no other has: nodes are found again by name in the optimized graph, values in the plan.

    Bodies that lie beside each other may use the same names for what is not the same.
    """
    seen: set[str] = set()
    for graph in model.graphs():
        for node in graph:
            node.name = _own_name(node.name or f"{node.op_type}_{node.outputs[0].name}", seen)
    main = model.graph
    ends = {*main.inputs, *main.initializers.values(), *main.outputs}
    seen = {value.name or "" for value in ends}
    for graph in model.graphs():
        for value in [*graph.inputs, *(value for node in graph for value in node.outputs)]:
            if value not in ends and value.name:
                value.name = _own_name(value.name, seen)


def _own_name(wish: str, seen: set[str]) -> str:
    name, count = wish, 1
    while name in seen:
        count += 1
        name = f"{wish}_{count}"
    seen.add(name)
    return name


def infer_anew(model: ir.Model) -> None:
    """Fill in types and shapes, trusting what a file says of a node's outputs only where inference does not contradict it.

    The runtime warns of a wrong shape and runs the float model all the same; what it makes of an int8 one it cannot run.
    """
    stated = {
        value: value.shape for node in nodes_of(model) for value in node.outputs if value.shape is not None
    }
    for value in stated:
        value.shape = None
    infer_shapes(model)
    for value, shape in stated.items():
        if value.shape is None or _agree(value.shape, shape):
            value.shape = shape
    infer_shapes(model)


def _agree(found: ir.Shape, stated: ir.Shape) -> bool:
    pairs = zip(found, stated, strict=False)
    return len(found) == len(stated) and all(
        a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int)
    )
