"""What ONNX Runtime's own scripts make of a case: static (U8S8, per channel, min-max, QDQ) and dynamic (int8, per channel).

    python benchmarks/runtime_files.py CASE FOLDER

FOLDER gets static.onnx and dynamic.onnx; what fails leaves static.txt or dynamic.txt with the reason.
"""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
from corpus_cases import load_cases
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterator[Any]) -> None:
        self.feeds = feeds

    def get_next(self) -> Any:
        return next(self.feeds, None)


def prepared(model: Path, folder: Path) -> Path:
    """The model as the scripts want it: simplified, with shapes; without symbolic shapes, or as it came, where that fails."""
    for skip in (False, True):
        try:
            quant_pre_process(str(model), str(folder / "prepared.onnx"), skip_symbolic_shape=skip)
        except Exception:
            continue
        return folder / "prepared.onnx"
    return model


def main() -> None:
    logging.disable(logging.WARNING)
    where, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    case = load_cases(where.parent).load(where)
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # the scripts leave files in the current folder
    model = prepared(case.model, folder)
    static: dict[str, Any] = {
        "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "quant_format": QuantFormat.QDQ
    }  # fmt: skip
    products = [
        "MatMul",
        "Gemm",
        "Attention",
        "LSTM",
        "EmbedLayerNormalization",
    ]  # with Conv as well it takes longer than float
    makers = {
        "static": lambda out, each: quantize_static(
            str(model), out, Reader(case.feeds("calib")), per_channel=each, **static
        ),
        "dynamic": lambda out, each: quantize_dynamic(
            str(model), out, per_channel=each, weight_type=QuantType.QInt8, op_types_to_quantize=products
        ),
    }
    for name, make in makers.items():
        for per_channel in (True, False):  # models older than opset 13 know no axis
            file = folder / f"{name}.onnx"
            try:
                make(str(file), per_channel)
                onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            except Exception as error:
                (folder / f"{name}.txt").write_text(
                    f"per_channel={per_channel}: {type(error).__name__}: {error}\n"
                )
                file.unlink(missing_ok=True)
            else:
                break


if __name__ == "__main__":
    main()
