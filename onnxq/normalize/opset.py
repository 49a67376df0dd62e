"""Conversion of old models to the opset that quantization needs."""

import onnx
import onnx_ir as ir

from onnxq.graph.shapes import opset_of

LEAST_OPSET = 13
"""The first opset whose QuantizeLinear and DequantizeLinear have an axis, for per-channel scales."""


def lift_opset(model: ir.Model, least: int = LEAST_OPSET) -> ir.Model:
    """Convert an older model to opset `least`; return it unchanged where onnx cannot convert it.

    An older opset is no error: the writer then uses the Q/DQ operators of the com.microsoft domain.
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
