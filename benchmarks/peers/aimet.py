"""Quantize a model with AIMET-ONNX."""

import onnx
from aimet_onnx.cross_layer_equalization import equalize_model
from aimet_onnx.quantsim import QuantizationSimModel
from samples import arguments, feeds

model, samples, out, configuration = arguments()
loaded = onnx.load(model)
if "equalized" in configuration:
    equalize_model(loaded)
simulated = QuantizationSimModel(loaded)
simulated.compute_encodings(feeds(samples))
onnx.save(simulated.to_onnx_qdq(), out)
