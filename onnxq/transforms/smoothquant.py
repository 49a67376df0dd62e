"""SmoothQuant on a graph: divide the outlier channels of products' inputs and multiply their weights."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxq.calibration.collect import Divided
from onnxq.calibration.moments import LayerInput, Moments
from onnxq.graph.edit import constant
from onnxq.plan.plan import Plan
from onnxq.plan.products import channel_axis
from onnxq.quantization.weights import layer_inputs, read_elsewhere
from onnxq.techniques.blockwise import Grid
from onnxq.techniques.saturation import kernel_order
from onnxq.techniques.smoothing import smoothing_scales
from onnxq.transforms.algorithm import Transformed
from onnxq.transforms.channel_scaling import divide_channels


def smooth(
    model: ir.Model, plan: Plan, moments: Mapping[LayerInput, Moments], _grid: Grid | None = None
) -> Transformed | None:
    """Return a smoothed copy of a model; None where no layer gains.

    The copy contains all values of the plain model.

    Args:
        model: normalized model; it does not change.
        plan: plan of the quantized nodes.
        moments: moments of the layers' inputs.
        _grid: unused; smoothing prepares for 8-bit activations.
    """
    copy, known, divided = model.clone(), dict(moments), dict[str, Divided]()
    for layer, names in smoothable(model, plan).items():
        found = moments.get(layer)
        if found is None or found.rows == 0 or read_elsewhere([plan.nodes[name].node for name in names]):
            continue
        weights = [(plan.nodes[name], constant(plan.nodes[name].node.inputs[1])) for name in names]
        rows = np.concatenate(
            [kernel_order(w, channel_axis(planned)) for planned, w in weights if w is not None]
        )
        scales = smoothing_scales(found.low[0], found.high[0], found.power()[0], rows.astype(np.float32))
        if scales is not None:
            tensor = divide_channels(copy, layer.tensor, names, scales)
            known[replace(layer, tensor=tensor)] = found.divided(scales)
            divided[tensor] = Divided(layer.tensor, scales, axis=-1)
    return Transformed(copy, known, divided) if divided else None


def smoothable(model: ir.Model, plan: Plan) -> dict[LayerInput, list[str]]:
    """Return the layer inputs whose channels can be divided, with the products that take them."""
    consumers: dict[LayerInput, list[str]] = {}
    for name, layer in layer_inputs(plan).items():
        in_main = plan.nodes[name].node.graph is model.graph
        if in_main and layer.kernel is None and not layer.transposed:
            consumers.setdefault(layer, []).append(name)
    return consumers
