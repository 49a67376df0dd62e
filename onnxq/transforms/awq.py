"""AWQ on a graph: scale the inputs of products so that rounding affects salient channels' weights less."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxq.calibration.moments import LayerInput, Moments
from onnxq.formats.embedding_tables import find_tables, table_of
from onnxq.graph.edit import constant, tidy
from onnxq.plan.plan import Plan
from onnxq.plan.products import channel_axis
from onnxq.quantization.weights import layer_inputs, read_elsewhere
from onnxq.techniques.awq import awq_scales
from onnxq.techniques.blockwise import Grid, round_to_nearest
from onnxq.techniques.saturation import kernel_order
from onnxq.transforms.algorithm import Transformed
from onnxq.transforms.channel_scaling import divide_channels
from onnxq.types import Floats


def scale_inputs(
    model: ir.Model, plan: Plan, moments: Mapping[LayerInput, Moments], grid: Grid | None = None
) -> Transformed | None:
    """Return a copy whose products have inputs divided, and weights multiplied, channel by channel.

    Args:
        model: normalized model; it does not change.
        plan: plan of the products.
        moments: second moments of their inputs.
        grid: grid of the codes of the weights.
    """
    assert grid is not None
    consumers: dict[LayerInput, list[str]] = {}
    for name, layer in layer_inputs(plan).items():
        if plan.nodes[name].node.graph is model.graph:
            consumers.setdefault(layer, []).append(name)
    copy, tables = model.clone(), find_tables(model)
    for layer, names in consumers.items():
        second = moments[layer].raw()
        if second is None or read_elsewhere([plan.nodes[name].node for name in names]):
            continue
        weights = [_rows(plan, name) for name in names]
        if any(table_of(rows, tables) for rows in weights):
            continue  # an embedding table has no inputs to divide
        scales = awq_scales(weights, second[0], lambda rows: round_to_nearest(rows, grid).decoded())
        if scales is not None:
            divide_channels(copy, layer.tensor, names, scales, fold=True)
    tidy(copy)
    return Transformed(copy, {})  # no moments: the scaled weights are rounded to nearest


def _rows(plan: Plan, name: str) -> Floats:
    """Read a product's weight as [channels, K]; it may lie on disk."""
    planned = plan.nodes[name]
    weight = constant(planned.node.inputs[1])
    assert weight is not None
    return np.ascontiguousarray(kernel_order(weight, channel_axis(planned)), np.float32)
