"""Quantize ONNX models to integers for ONNX Runtime on CPUs, and verify accuracy and speed.

`quantize`, `finetune` and `evaluate` do the work of `onnxq quantize`, `onnxq finetune` and `onnxq eval` and
return their reports.
NumPy, ONNX and ONNX Runtime are imported when a function is called.
"""

# Nothing is imported here but two modules without imports: `python -m onnxq` runs this file while the current
# folder is still first on the module path, and Ctrl-C is answered only after it.
from onnxq.errors import OnnxqError
from onnxq.version import __version__

TYPE_CHECKING = False  # a type checker takes it for typing.TYPE_CHECKING
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from onnxq.evaluation.report import EvalReport
    from onnxq.options import (
        Effort,
        FinetuneOptions,
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
    from onnxq.report.quantization import QuantizeReport

__all__ = [
    "Effort",
    "FinetuneOptions",
    "Format",
    "Method",
    "Mode",
    "OnnxqError",
    "Prefer",
    "QuantizeOptions",
    "Rounding",
    "Target",
    "Technique",
    "WeightType",
    "__version__",
    "evaluate",
    "finetune",
    "quantize",
]


def __getattr__(name: str) -> "Any":
    """Return an option type, which `onnxq.options` defines."""
    if name in __all__:
        from onnxq import options

        return getattr(options, name)
    raise AttributeError(f"module 'onnxq' has no attribute '{name}'")


def quantize(
    model: "str | Path",
    calib: "str | Path | None" = None,
    output: "str | Path | None" = None,
    **options: "Any",
) -> "QuantizeReport":
    """Quantize a float model, write the result to a file and return the report.

    Example:
        report = onnxq.quantize("model.onnx", "data/", method=onnxq.Method.MSE)
        print(report.output, report.kernels.integer_share, report.outputs.bound_db)

    Args:
        model: float model.
        calib: calibration samples: folder or module:function; may be None with `stats`.
        output: file to write, or a folder as text that ends in a slash; None for `<model>.int8.onnx` beside
            the model.
        **options: other fields of `QuantizeOptions`.

    Returns:
        The report that `onnxq quantize --json` prints. A file that fails a gate of `limits` raises nothing:
        see `report.gates`.

    Raises:
        OnnxqError: the model, the data or the output cannot be used; nothing was written.
    """
    from dataclasses import replace
    from pathlib import Path

    from onnxq.options import QuantizeOptions, output_file
    from onnxq.pipeline import quantize as run

    chosen = QuantizeOptions(Path(model), None if calib is None else Path(calib), **options)
    if output is not None:
        chosen = replace(chosen, output=output_file(str(output), chosen.default_name))
    return run(chosen)


def finetune(
    model: "str | Path",
    calib: "str | Path",
    output: "str | Path | None" = None,
    *,
    tuning: "FinetuneOptions | None" = None,
    **options: "Any",
) -> "QuantizeReport":
    """Quantize a float model, train the result on the samples, and write the better of both files.

    Example:
        tuning = onnxq.FinetuneOptions(labels="data/labels.csv", bits=(4,))
        report = onnxq.finetune("model.onnx", "data/", tuning=tuning)
        print(report.finetuning.kept, report.finetuning.before_db, report.finetuning.after_db)

    Args:
        model: float model.
        calib: samples: folder or module:function.
        output: as for `quantize`.
        tuning: options of finetuning; by default those of `onnxq finetune`.
        **options: other fields of `QuantizeOptions`; the mode is static.

    Returns:
        The report that `onnxq finetune --json` prints.

    Raises:
        OnnxqError: the model, the data or the output cannot be used; nothing was written.
    """
    from dataclasses import replace
    from pathlib import Path

    from onnxq.options import FinetuneOptions, QuantizeOptions, output_file
    from onnxq.pipeline import finetune as run

    chosen = QuantizeOptions(Path(model), Path(calib), **options)
    if output is not None:
        chosen = replace(chosen, output=output_file(str(output), chosen.default_name))
    return run(chosen, tuning or FinetuneOptions())


def evaluate(
    model: "str | Path", others: "Sequence[str | Path]", data: "str | Path", **options: "Any"
) -> "EvalReport":
    """Compare a float model with other models on samples.

    Example:
        report = onnxq.evaluate("model.onnx", ["model.int8.onnx"], "eval/", labels="eval/labels.csv")
        print(report.scores[1].metrics["top-1"].drop, report.scores[1].sqnr_db)

    Args:
        model: float model.
        others: models to compare with it.
        data: samples: folder or module:function.
        **options: fields of `onnxq.evaluation.evaluate.EvalOptions`.

    Returns:
        The report that `onnxq eval --json` prints; `scores[0]` is the float model's.

    Raises:
        OnnxqError: a model, the data or the labels cannot be used.
    """
    from pathlib import Path

    from onnxq.evaluation.evaluate import EvalOptions
    from onnxq.evaluation.evaluate import evaluate as run

    return run(Path(model), [Path(other) for other in others], Path(data), EvalOptions(**options))
