"""`onnxq inspect`: operators of a model, the quantization plan, and what the cost model expects of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from onnxq.cost.placement import place, savings
from onnxq.cost.target import TargetCpus, find_target
from onnxq.data.preprocessing import read_forms
from onnxq.evaluation.benchmark import feeds_of
from onnxq.evaluation.verification import inspect_kernels
from onnxq.graph.edit import is_constant, nodes_of, sizes
from onnxq.graph.files import file_bytes, load
from onnxq.graph.macs import ShapeByName, concrete_shapes, node_macs
from onnxq.graph.shapes import opset_of
from onnxq.normalize.passes import normalize
from onnxq.options import Target, Targets
from onnxq.plan.float_nodes import FloatNodes
from onnxq.plan.operators import ALREADY_QUANTIZED, INTEGER_KERNELS
from onnxq.plan.plan import Plan, make_plan
from onnxq.plan.reasons import SLOWER
from onnxq.plan.shapes import planned_shapes
from onnxq.runtime.sessions import described_outputs, explained, input_specs, open_session

BYTES_SAVED = 3
"""Bytes that an int8 weight saves."""


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
class Forecast:
    """What the cost model expects of a static int8 file.

    target   families of CPUs and target files; the CPU that gains least counts
    latency  latency / latency in float
    bytes    size of the file
    slower   planned nodes that stay float, because their int8 form would be slower
    """

    target: str
    latency: float
    bytes: int
    slower: int


@dataclass(frozen=True)
class InspectReport:
    """Properties of a model and of its plan.

    planned_mac_share  share of the MACs in nodes that become int8
    floats     nodes left in float, with reasons
    quantized  nodes of the model that are quantized already
    kernels, integer_share  of such a model: its integer kernels in this runtime, and their share of the MACs
    forecast   expected gain; None without the shapes of the inputs, and where no table fits the target
    shaped     whether the MACs are those of the given shapes or data
    """

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
    quantized: int = 0
    kernels: dict[str, int] = field(default_factory=dict)
    integer_share: float = 0.0
    forecast: Forecast | None = None
    shaped: bool = False


@dataclass(frozen=True)
class InspectOptions:
    """Options of `onnxq inspect`.

    shapes      shapes of inputs with dynamic sizes, by name
    data        samples, of which the first one gives the shapes
    preprocess  preset or TOML file for preprocessing
    target      CPUs of the forecast, as in `QuantizeOptions`
    """

    shapes: Mapping[str, Sequence[int]] | None = None
    data: Path | None = None
    preprocess: str | None = None
    target: Targets = Target.PORTABLE


def inspect_model(path: Path, options: InspectOptions | None = None) -> InspectReport:
    """Read, normalize and plan a model; write nothing.

    Raises:
        ModelError: The model cannot be read or loaded by the runtime.
        DataError: The data cannot be used, or the model has no input of such a name.
    """
    options = options or InspectOptions()
    target = find_target(options.target)
    model = load(path)
    ir_version, opset = model.ir_version, opset_of(model)
    quantized = sum(node.op_type in ALREADY_QUANTIZED for node in nodes_of(model))
    session = open_session(path, optimize=False, threads=1)
    specs = input_specs(session)
    model = normalize(model)
    plan = make_plan(model)
    shaped = bool(options.shapes) or options.data is not None
    forecast = None
    if shaped:
        with explained(path):
            feeds = feeds_of(path, specs, read_forms(options.preprocess), options.shapes or {}, options.data)[
                0
            ]
            shapes = planned_shapes(model, plan, feeds)
        plan, forecast = _forecast(model, plan, shapes, target, file_bytes(path))
    else:
        shapes = concrete_shapes(model, None)
    found = inspect_kernels(path, model, Plan(), shapes) if quantized else None
    kernels = {
        name: count for name, count in (found.counts if found else {}).items() if name in INTEGER_KERNELS
    }
    macs = {node.name or "": node_macs(node, shapes) for node in nodes_of(model)}
    total = sum(macs.values())
    planned = sum(macs[name] for name in plan.anchors)
    return InspectReport(
        model=str(path),
        bytes=file_bytes(path),
        ir_version=ir_version,
        opset=opset,
        opset_normalized=opset_of(model),
        inputs=[f"{spec.name} {spec.describe()}" for spec in specs],
        outputs=described_outputs(session),
        operators=_operators(model, plan, macs),
        planned_mac_share=planned / total if total else 0.0,
        floats=FloatNodes.group(
            (node.op_type, node.name or "", str(reason), macs[node.name or ""])
            for node, reason in plan.floats.values()
        ),
        quantized=quantized,
        kernels=kernels,
        integer_share=found.model_share if found else 0.0,
        forecast=forecast,
        shaped=shaped,
    )


def _operators(model: ir.Model, plan: Plan, macs: Mapping[str, int]) -> list[OperatorRow]:
    """Count the nodes of each type, those with most MACs first.

    A clamp that an integer kernel absorbs counts as integer. Arithmetic on shapes is neither that nor float.
    """
    carriers = {planned.output for planned in plan.nodes.values()}
    rows: dict[str, list[int]] = {}
    for node in nodes_of(model):
        row = rows.setdefault(node.op_type, [0, 0, 0])
        row[0] += 1
        row[1] += macs[node.name or ""]
        row[2] += (node.name or "") in plan.nodes or not carriers.isdisjoint(node.outputs)
    operators = [OperatorRow(op_type, *counts) for op_type, counts in rows.items()]
    return sorted(operators, key=lambda row: (-row.macs, -row.nodes, row.op_type))


def _forecast(
    model: ir.Model, plan: Plan, shapes: ShapeByName, target: TargetCpus, size: int
) -> tuple[Plan, Forecast | None]:
    """Return the plan without the nodes that are faster in float, and the gain of the rest."""
    cpus = target.costs
    if not cpus or not plan.nodes:
        return plan, None
    slower = place(plan, shapes, cpus).floats
    left = make_plan(model, None, dict.fromkeys(slower, SLOWER)) if slower else plan
    gain = savings(left, shapes, cpus)
    if slower and gain.too_little:
        left = make_plan(model, None, dict.fromkeys(plan.nodes, SLOWER))
        gain = savings(left, shapes, cpus)
    weights = sum(
        math.prod(sizes(planned.node.inputs[1]) or ())
        for planned in left.anchors.values()
        if is_constant(planned.node.inputs[1])
    )
    forecast = Forecast(
        target.name,
        1 - gain.time,
        max(0, size - BYTES_SAVED * weights),
        len(plan.nodes.keys() - left.nodes.keys()),
    )
    return left, forecast
