"""Quantize a model with AMD Quark."""

from onnxruntime.quantization import CalibrationDataReader
from quark.onnx import ModelQuantizer
from quark.onnx.quantization.config import Config, get_default_config
from samples import arguments, reader

model, samples, out, configuration = arguments()

config = get_default_config(configuration)
ModelQuantizer(Config(global_quant_config=config)).quantize_model(
    model, out, reader(CalibrationDataReader, samples)
)
