"""Quantize a case of a corpus with ONNX Runtime's own scripts.

    python benchmarks/runtime_files.py CASE FOLDER

FOLDER gets static.onnx (U8S8, per channel, min-max, QDQ) and dynamic.onnx (int8, per channel). A script that
fails leaves static.txt or dynamic.txt with the reason instead. `corpus.py --runtime` calls this.
"""

import argparse
import logging
import os
from collections.abc import Callable, Iterator
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

PRODUCTS = ["MatMul", "Gemm", "Attention", "LSTM", "EmbedLayerNormalization"]
"""Operators that the dynamic file quantizes; with Conv as well it is slower than float."""


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands the samples of an iterator to the runtime's calibration."""

    def __init__(self, feeds: Iterator[Any]) -> None:
        self.feeds = feeds

    def get_next(self) -> Any:
        """Return the next sample, or None at the end."""
        return next(self.feeds, None)


def preprocess(model: Path, folder: Path) -> Path:
    """Simplify a model and infer its shapes for the scripts.

    Where this fails, it goes without symbolic shapes, and then without any preprocessing.
    """
    for skip in (False, True):
        try:
            quant_pre_process(str(model), str(folder / "prepared.onnx"), skip_symbolic_shape=skip)
        except Exception:
            continue
        return folder / "prepared.onnx"
    return model


def write(file: Path, make: Callable[[str, bool], None]) -> None:
    """Write a file per channel, or per tensor where that fails (below opset 13 there is no axis)."""
    for per_channel in (True, False):
        try:
            make(str(file), per_channel)
            onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        except Exception as error:
            reason = f"per_channel={per_channel}: {type(error).__name__}: {error}\n"
            file.with_suffix(".txt").write_text(reason)
            file.unlink(missing_ok=True)
        else:
            return


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", type=Path, help="folder of the case in its corpus")
    parser.add_argument("folder", type=Path, help="folder for the files")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    where, folder = args.case.resolve(), args.folder.resolve()
    case = load_cases(where.parent).load(where)
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # the scripts leave files in the current folder
    model = str(preprocess(case.model, folder))

    def static(output: str, per_channel: bool) -> None:
        quantize_static(
            model,
            output,
            Reader(case.feeds("calib")),
            per_channel=per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            quant_format=QuantFormat.QDQ,
        )

    def dynamic(output: str, per_channel: bool) -> None:
        quantize_dynamic(
            model,
            output,
            per_channel=per_channel,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=PRODUCTS,
        )

    write(folder / "static.onnx", static)
    write(folder / "dynamic.onnx", dynamic)


if __name__ == "__main__":
    main()
