"""ONNX Neural Compressor."""

from onnx_neural_compressor import data_reader
from onnx_neural_compressor.quantization import QuantFormat, QuantType, quantize
from onnx_neural_compressor.quantization.config import StaticQuantConfig
from samples import arguments, feeds

model, samples, out, configuration = arguments()


class Reader(data_reader.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.rewind()

    def get_next(self):  # type: ignore[no-untyped-def]
        return next(self.feeds, None)

    def rewind(self) -> None:
        self.feeds = feeds(samples)


quantize(
    model,
    out,
    StaticQuantConfig(
        Reader(), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True, quant_format=QuantFormat.QDQ,
        reduce_range="reduced" in configuration,
    ),
)  # fmt: skip
