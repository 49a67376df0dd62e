"""Quantize a model with ONNX Neural Compressor."""

from onnx_neural_compressor import data_reader
from onnx_neural_compressor.quantization import QuantFormat, QuantType, quantize
from onnx_neural_compressor.quantization.config import StaticQuantConfig
from samples import arguments, reader

model, samples, out, configuration = arguments()

quantize(
    model,
    out,
    StaticQuantConfig(
        reader(data_reader.CalibrationDataReader, samples),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        quant_format=QuantFormat.QDQ,
        reduce_range="reduced" in configuration,
    ),
)
