"""onnxq: quantize ONNX models for the integer kernels of ONNX Runtime on CPUs, and prove the result.

The functions here do what the commands of the same names do and return the report that those print.
They import what they need when they are called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxq.errors import OnnxqError
from onnxq.options import (
    Effort,
    Format,
    Method,
    Mode,
    Prefer,
    QuantizeOptions,
    Rounding,
    Target,
    Technique,
    WeightType,
)
from onnxq.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxq.evaluation.report import EvalReport
    from onnxq.report.quantization import QuantizeReport

__all__ = [
    "Effort", "Format", "Method", "Mode", "OnnxqError", "Prefer", "QuantizeOptions", "Rounding", "Target", "Technique", "WeightType",
    "__version__", "evaluate", "quantize",
]  # fmt: skip


def quantize(
    model: str | Path, calib: str | Path | None = None, output: str | Path | None = None, **options: Any
) -> QuantizeReport:
    """Write the int8 model of a float one and return what was done.

    Args:
        model: the float model.
        calib: data folder; may be left out where `stats` are given.
        output: the file to write; `<model>.int8.onnx` beside the input by default.
        **options: fields of `QuantizeOptions`.

    Raises:
        OnnxqError: the model, the data or the output cannot be used; nothing was written.
    """
    from onnxq.pipeline import quantize as run

    folder, target = (None if path is None else Path(path) for path in (calib, output))
    return run(QuantizeOptions(Path(model), folder, target, **options))


def evaluate(model: str | Path, others: Sequence[str | Path], data: str | Path, **options: Any) -> EvalReport:
    """Compare a float model with others over a data folder.

    Args:
        model: the float model.
        others: the models to compare with it.
        data: data folder.
        **options: fields of `onnxq.evaluation.evaluate.EvalOptions`.

    Raises:
        OnnxqError: a model, the data or the labels cannot be used.
    """
    from onnxq.evaluation.evaluate import EvalOptions
    from onnxq.evaluation.evaluate import evaluate as run

    return run(Path(model), [Path(other) for other in others], Path(data), EvalOptions(**options))
