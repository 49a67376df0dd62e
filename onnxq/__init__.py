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
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Any, TypeAlias, Unpack

    from onnx import ModelProto

    from onnxq.calibration.statistics import Statistics
    from onnxq.evaluation.debugging import DebugReport
    from onnxq.evaluation.drift import DriftKeywords, DriftReport
    from onnxq.evaluation.evaluate import EvalKeywords
    from onnxq.evaluation.inspection import InspectReport
    from onnxq.evaluation.report import EvalReport
    from onnxq.exports.evaluation import FolderEvalReport
    from onnxq.exports.folder import FolderReport
    from onnxq.options import (
        ActivationType,
        Effort,
        FinetuneOptions,
        Format,
        Method,
        Mode,
        Prefer,
        QuantizeKeywords,
        QuantizeOptions,
        Rounding,
        Target,
        Technique,
        WeightType,
    )
    from onnxq.profiling.profile import Profile
    from onnxq.recording.application import RecordKeywords, Staged
    from onnxq.report.quantization import QuantizeReport

    Model: TypeAlias = str | Path | bytes | ModelProto
    Data: TypeAlias = Any
    """Samples: see `quantize`."""

__all__ = [
    "ActivationType",
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
    "calibrate",
    "debug",
    "drift",
    "evaluate",
    "evaluate_folders",
    "finetune",
    "inspect",
    "profile",
    "quantize",
    "quantize_folder",
    "record",
]


def __getattr__(name: str) -> "Any":
    """Return an option type, which `onnxq.options` defines."""
    if name in __all__:
        from onnxq import options

        return getattr(options, name)
    raise AttributeError(f"module 'onnxq' has no attribute '{name}'")


def quantize(
    model: "Model",
    calib: "Data | None" = None,
    output: "str | Path | None" = None,
    **options: "Unpack[QuantizeKeywords]",
) -> "QuantizeReport":
    """Quantize a float model, write the result to a file and return the report.

    Example:
        report = onnxq.quantize("model.onnx", "data/", method=onnxq.Method.MSE)
        print(report.output, report.kernels.integer_share, report.outputs.bound_db)

    Args:
        model: float model: a file, bytes, or a ModelProto.
        calib: calibration samples: folder or module:function; an array or a dict of arrays with a sample a
            row; a list, generator, DataLoader or data set of samples; or a function that returns one of
            these. May be None with `stats`.
        output: file to write, or a folder as text that ends in a slash; None for `<model>.int8.onnx` beside
            the model.
        **options: other fields of `QuantizeOptions`.

    Returns:
        The report that `onnxq quantize --json` prints. A file that fails a gate of `limits` raises nothing:
        see `report.gates`.

    Raises:
        OnnxqError: the model, the data or the output cannot be used; nothing was written.
    """
    from onnxq import api

    return api.quantize(model, calib, output, dict(options))


def quantize_folder(
    folder: "str | Path",
    output: "str | Path",
    calib: "str | Path | None" = None,
    **options: "Unpack[QuantizeKeywords]",
) -> "FolderReport":
    """Quantize the models of a folder, as exporters write it, into another folder.

    Example:
        onnxq.quantize_folder("exported/", "exported-int8/", "texts/")

    Args:
        folder: folder of models with the settings of their library.
        output: folder to write; it must not hold files.
        calib: texts, images or sounds, or other samples: folder, file or module:function.
        **options: other fields of `QuantizeOptions`; without `mode`, each model gets the one that suits it.

    Returns:
        The report that `onnxq quantize FOLDER --json` prints.

    Raises:
        OnnxqError: a model, the data or the output cannot be used; nothing was written.
    """
    from onnxq import api

    return api.quantize_folder(folder, output, calib, dict(options))


def calibrate(
    model: "Model", calib: "Data", output: "str | Path", **options: "Unpack[QuantizeKeywords]"
) -> "Statistics":
    """Write calibration statistics to a file, for `quantize(stats=(file,))`, and return them.

    Args:
        model: float model, as for `quantize`.
        calib: calibration samples, as for `quantize`.
        output: .npz file to write, or a folder as text that ends in a slash.
        **options: other fields of `QuantizeOptions`.

    Raises:
        OnnxqError: the model, the data or the output cannot be used; nothing was written.
    """
    from onnxq import api

    return api.calibrate(model, calib, output, dict(options))


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
        **options: other fields of `QuantizeOptions`; the mode is static or weights.

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
    model: "Model", others: "Sequence[Model]", data: "Data", **options: "Unpack[EvalKeywords]"
) -> "EvalReport":
    """Compare a float model with other models on samples.

    Example:
        report = onnxq.evaluate("model.onnx", ["model.int8.onnx"], "eval/", labels="eval/labels.csv")
        print(report.scores[1].metrics["top-1"].drop, report.scores[1].sqnr_db)

    Args:
        model: float model: a file, bytes, or a ModelProto.
        others: models to compare with it.
        data: samples, as for `quantize`; `(sample, label)` brings labels.
        **options: fields of `onnxq.evaluation.evaluate.EvalOptions`.

    Returns:
        The report that `onnxq eval --json` prints; `scores[0]` is the float model's.

    Raises:
        OnnxqError: a model, the data or the labels cannot be used.
    """
    from onnxq import api

    return api.evaluate(model, others, data, dict(options))


def evaluate_folders(
    folders: "Sequence[str | Path]",
    data: "str | Path",
    *,
    tokens: int = 32,
    **options: "Unpack[EvalKeywords]",
) -> "FolderEvalReport":
    """Compare folders of exporters end to end: the tokens that they generate, or model by model.

    Example:
        report = onnxq.evaluate_folders(["exported/", "exported-int8/"], "texts/")
        print(report.generation[1].tokens, report.generation[1].ratio)

    Args:
        folders: the float folder first.
        data: texts, images or sounds, or other samples: folder, file or module:function.
        tokens: most tokens that are generated from a sample.
        **options: fields of `onnxq.evaluation.evaluate.EvalOptions`.

    Returns:
        The report that `onnxq eval FOLDER FOLDER --json` prints.

    Raises:
        OnnxqError: a folder or the data cannot be used.
    """
    from onnxq import api

    return api.evaluate_folders(folders, data, tokens, dict(options))


def drift(model: "Model", data: "Data", **options: "Unpack[DriftKeywords]") -> "DriftReport":
    """Compare the values of a quantized model's activations with their calibrated ranges.

    Args:
        model: quantized file in QDQ format.
        data: samples of the application, as for `quantize`.
        **options: fields of `onnxq.evaluation.drift.DriftOptions`; `reference` and
            `float_model` may be in memory too.

    Raises:
        OnnxqError: the model has no calibrated ranges, or a model or the data cannot be used.
    """
    from onnxq import api

    return api.drift(model, data, dict(options))


def debug(model: "Model", other: "Model", data: "Data", preprocess: "str | None" = None) -> "DebugReport":
    """Compare a quantized model with its float model layer by layer, as `onnxq debug` does.

    Raises:
        OnnxqError: a model or the data cannot be used, or the models have no layer in common.
    """
    from onnxq import api

    return api.debug(model, other, data, preprocess)


def inspect(model: "Model") -> "InspectReport":
    """Show the operators of a model, and which nodes would become int8, as `onnxq inspect` does.

    Raises:
        OnnxqError: the model cannot be used.
    """
    from onnxq import api

    return api.inspect(model)


def profile(output: "str | Path", *, threads: int = 1, force: bool = False) -> "Profile":
    """Measure the kernels of ONNX Runtime on this device, and write a target file; it takes minutes.

    Example:
        onnxq.profile("pi5.toml")
        onnxq.quantize("model.onnx", "data/", target="pi5.toml")

    Args:
        output: file to write.
        threads: threads of the measured sessions, as the application will run the model.
        force: overwrite the file.

    Raises:
        OnnxqError: the file exists already or cannot be written.
    """
    from pathlib import Path

    from onnxq.profiling.profile import profile as run

    return run(Path(output), threads, force=force)


def record(output: "str | Path", **options: "Unpack[RecordKeywords]") -> "AbstractContextManager[Staged]":
    """Record the inputs that models get in a block: those of this process, and of Python processes it starts.

    Example:
        with onnxq.record("calib/"):
            application.main()
        onnxq.quantize("model.onnx", "calib/")

    Args:
        output: folder to write; it appears at the end of the block, also if the block fails.
        **options: other fields of `onnxq.recording.application.RecordOptions`.

    Returns:
        A context manager; its value has `result`, the recording, after the block.

    Raises:
        OnnxqError: the folder exists already, or cannot be written.
    """
    from pathlib import Path

    from onnxq.recording.application import RecordOptions
    from onnxq.recording.context import record_block

    return record_block(RecordOptions(Path(output), **options))
