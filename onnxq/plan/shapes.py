"""Shapes of a planned model's values for one sample: by shape inference, or observed in a run."""

import onnx_ir as ir

from onnxq.graph.edit import is_constant
from onnxq.graph.macs import WITH_MACS, ShapeByName, concrete_shapes
from onnxq.plan.plan import Plan
from onnxq.runtime.inner_values import expose
from onnxq.runtime.sessions import open_exposed, run
from onnxq.types import Feeds


def planned_shapes(model: ir.Model, plan: Plan, feeds: Feeds) -> ShapeByName:
    """Return the shapes of a model's values for one sample, by name.

    Where inference finds no shape around planned nodes and products, a run observes it. In the body of a loop
    the shapes of the last iteration count.
    """
    shapes = concrete_shapes(model, feeds)
    nodes = [planned.node for planned in plan.nodes.values()]
    nodes += [node for node in model.graph if node.op_type in WITH_MACS]
    ends = [value for node in nodes for value in (*node.inputs[:2], *node.outputs)]
    values = [value for value in ends if value is not None and not is_constant(value)]
    values += [planned.output for planned in plan.nodes.values()]
    unknown = [value.name for value in dict.fromkeys(values) if value.name and value.name not in shapes]
    if not unknown:
        return shapes
    exposed = expose(model, unknown)
    names = [output for output, _ in exposed.outputs.values()]
    fetched = run(open_exposed(exposed.model), feeds, "a sample", names)
    levels = {name: depth for name, (_, depth) in exposed.outputs.items()}
    return shapes | {
        name: list(array.shape[depth:]) for (name, depth), array in zip(levels.items(), fetched, strict=True)
    }
