"""`onnxq inspect`: operators of a model and the quantization plan, without data."""

from dataclasses import dataclass
from pathlib import Path

from onnxq.graph.edit import nodes_of
from onnxq.graph.files import file_bytes, load
from onnxq.graph.macs import concrete_shapes, node_macs
from onnxq.graph.shapes import opset_of
from onnxq.normalize.passes import normalize
from onnxq.plan.float_nodes import FloatNodes
from onnxq.plan.plan import make_plan
from onnxq.runtime.sessions import input_specs, open_session


@dataclass(frozen=True)
class OperatorRow:
    """Counts of one operator type.

    nodes    number of nodes
    macs     their MACs; dynamic sizes count as 1
    integer  nodes that the plan quantizes to int8
    """

    op_type: str
    nodes: int
    macs: int
    integer: int


@dataclass(frozen=True)
class InspectReport:
    """Properties of a model and of its plan; `floats` holds the nodes left in float with reasons."""

    model: str
    bytes: int
    ir_version: int
    opset: int
    opset_normalized: int
    inputs: list[str]
    outputs: list[str]
    operators: list[OperatorRow]
    planned_mac_share: float
    floats: list[FloatNodes]


def inspect_model(path: Path) -> InspectReport:
    """Read, normalize and plan a model; write nothing.

    Raises:
        ModelError: The model cannot be read or loaded by the runtime.
    """
    model = load(path)
    ir_version, opset = model.ir_version, opset_of(model)
    session = open_session(path, optimize=False, threads=1)
    model = normalize(model)
    plan = make_plan(model)
    shapes = concrete_shapes(model, None)
    macs = {node.name or "": node_macs(node, shapes) for node in nodes_of(model)}
    rows: dict[str, list[int]] = {}
    for node in nodes_of(model):
        row = rows.setdefault(node.op_type, [0, 0, 0])
        row[0] += 1
        row[1] += macs[node.name or ""]
        row[2] += (node.name or "") not in plan.floats
    total = sum(macs.values())
    planned = sum(macs[name] for name in plan.anchors)
    operators = [OperatorRow(op_type, *counts) for op_type, counts in rows.items()]
    return InspectReport(
        model=str(path),
        bytes=file_bytes(path),
        ir_version=ir_version,
        opset=opset,
        opset_normalized=opset_of(model),
        inputs=[f"{spec.name} {spec.describe()}" for spec in input_specs(session)],
        outputs=[node.name for node in session.get_outputs()],
        operators=sorted(operators, key=lambda row: (-row.macs, -row.nodes, row.op_type)),
        planned_mac_share=planned / total if total else 0.0,
        floats=FloatNodes.group(
            (node.op_type, node.name or "", str(reason), macs[node.name or ""])
            for node, reason in plan.floats.values()
        ),
    )
