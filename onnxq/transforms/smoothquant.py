"""Smooth the activations of a model's matrix products, where that is expected to pay."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from onnxq.calibration.collect import Divided
from onnxq.calibration.moments import LayerInput, Moments
from onnxq.graph.edit import constant
from onnxq.plan.plan import Plan
from onnxq.plan.products import channel_axis
from onnxq.quantization.weights import layer_inputs, read_elsewhere
from onnxq.techniques.saturation import kernel_order
from onnxq.techniques.smoothing import smoothing_scales
from onnxq.transforms.channel_scaling import divide_channels


@dataclass(frozen=True)
class Changed:
    """A changed model with the moments of its layers' inputs, and tensors that are others, divided."""

    model: ir.Model
    moments: Mapping[LayerInput, Moments]
    divided: Mapping[str, Divided] = field(default_factory=dict)


def smooth(model: ir.Model, plan: Plan, moments: Mapping[LayerInput, Moments]) -> Changed | None:
    """A smoothed copy of a model, which has the values of the plain one too; None where nothing is worth it.

    Args:
        model: normalized; it is left as it is.
        plan: what is to be quantized.
        moments: of the layers' inputs.
    """
    takers: dict[LayerInput, list[str]] = {}
    for name, layer in layer_inputs(plan).items():
        in_main = plan.nodes[name].node.graph is model.graph
        if in_main and layer.kernel is None and not layer.transposed and layer in moments:
            takers.setdefault(layer, []).append(name)
    copy, known = model.clone(), dict(moments)
    for layer, names in takers.items():
        found = moments[layer]
        if found.rows == 0 or read_elsewhere([plan.nodes[name].node for name in names]):
            continue
        weights = [(plan.nodes[name], constant(plan.nodes[name].node.inputs[1])) for name in names]
        rows = np.concatenate(
            [kernel_order(w, channel_axis(planned)) for planned, w in weights if w is not None]
        )
        scales = smoothing_scales(found.low[0], found.high[0], found.power()[0], rows.astype(np.float32))
        if scales is not None:
            tensor = divide_channels(copy, layer.tensor, names, scales)
            known[replace(layer, tensor=tensor)] = found.divided(scales)
    return Changed(copy, known) if len(known) > len(moments) else None
