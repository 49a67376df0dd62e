"""Quantize a model with ONNX Runtime's own scripts, static or dynamic."""

from pathlib import Path

from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from samples import arguments, reader

model, samples, out, configuration = arguments()

prepared = Path(out).with_name("prepared.onnx")
for skip in (False, True):
    try:
        quant_pre_process(model, str(prepared), skip_symbolic_shape=skip)
    except Exception:
        prepared = Path(model)
    else:
        break
methods = {
    "min-max": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
if configuration.startswith("dynamic"):
    quantize_dynamic(
        str(prepared),
        out,
        per_channel=True,
        weight_type=QuantType.QInt8,
        reduce_range="reduced" in configuration,
        op_types_to_quantize=["MatMul", "Gemm", "Attention", "LSTM", "EmbedLayerNormalization"],
    )
else:
    method = next(found for name, found in methods.items() if name in configuration)
    quantize_static(
        str(prepared),
        out,
        reader(CalibrationDataReader, samples),
        quant_format=QuantFormat.QDQ,
        per_channel="per tensor" not in configuration,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        reduce_range="reduced" in configuration,
        calibrate_method=method,
    )
