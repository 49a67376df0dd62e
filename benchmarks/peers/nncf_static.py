"""Quantize a model with NNCF."""

import nncf
import onnx
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
from samples import arguments, feeds

model, samples, out, configuration = arguments()
data = list(feeds(samples))
options = {}
if "mixed" in configuration:
    options["preset"] = nncf.QuantizationPreset.MIXED
if "transformer" in configuration:
    options["model_type"] = nncf.ModelType.TRANSFORMER
quantized = nncf.quantize(
    onnx.load(model),
    nncf.Dataset(data),
    subset_size=len(data),
    fast_bias_correction="sequential" not in configuration,
    advanced_parameters=AdvancedQuantizationParameters(
        overflow_fix=OverflowFix.ENABLE if "overflow fix" in configuration else OverflowFix.DISABLE
    ),
    **options,
)
onnx.save(quantized, out)
