"""AMD Quark for ONNX."""

from onnxruntime.quantization import CalibrationDataReader
from quark.onnx import ModelQuantizer
from quark.onnx.quantization.config import Config, get_default_config
from samples import arguments, feeds

model, samples, out, configuration = arguments()


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.feeds = feeds(samples)

    def get_next(self):  # type: ignore[no-untyped-def]
        return next(self.feeds, None)


config = get_default_config(configuration)
ModelQuantizer(Config(global_quant_config=config)).quantize_model(model, out, Reader())
