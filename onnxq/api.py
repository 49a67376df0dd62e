"""The commands as functions of Python, for models and data in files or in memory."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from onnxq.calibration.statistics import Statistics
from onnxq.data.python_data import LABELS, stored_samples
from onnxq.errors import ModelError, OnnxqError
from onnxq.evaluation.debugging import DebugReport
from onnxq.evaluation.debugging import debug as run_debug
from onnxq.evaluation.drift import DriftOptions, DriftReport
from onnxq.evaluation.drift import drift as run_drift
from onnxq.evaluation.evaluate import EvalOptions
from onnxq.evaluation.evaluate import evaluate as run_evaluate
from onnxq.evaluation.inspection import InspectReport, inspect_model
from onnxq.evaluation.report import EvalReport
from onnxq.exports.evaluation import FolderEvalReport
from onnxq.exports.evaluation import evaluate_folders as run_folders
from onnxq.exports.folder import FolderReport
from onnxq.exports.folder import quantize_folder as run_folder
from onnxq.graph.files import SINGLE_FILE_LIMIT, load
from onnxq.graph.scratch import ScratchFolder
from onnxq.options import QuantizeOptions, output_file
from onnxq.pipeline import calibrate as run_calibrate
from onnxq.pipeline import quantize as run_quantize
from onnxq.report.quantization import QuantizeReport
from onnxq.runtime.sessions import model_inputs


@contextmanager
def _files(*models: Any) -> Iterator[list[Path]]:
    """Return the paths of models; those in memory are written to a temporary folder for the block."""
    with ExitStack() as stack:
        paths = []
        for index, model in enumerate(models):
            if isinstance(model, str | Path):
                paths.append(Path(model))
                continue
            path = stack.enter_context(ScratchFolder()) / (
                "model.onnx" if not index else f"model{index}.onnx"
            )
            _save(model, path)
            paths.append(path)
        yield paths


def _save(model: Any, path: Path) -> None:
    if isinstance(model, bytes | bytearray | memoryview):
        path.write_bytes(model)
    elif isinstance(model, ir.Model):
        ir.save(model, path)
    elif isinstance(model, onnx.ModelProto):
        large = model.ByteSize() > SINGLE_FILE_LIMIT
        # a copy: saving external data changes the model
        copied = onnx.ModelProto.FromString(model.SerializeToString()) if not large else model
        onnx.save_model(copied, path, save_as_external_data=large, location="model.data")
    else:
        raise ModelError(f"a model of type {type(model).__name__}: give a path, bytes or a ModelProto")


@contextmanager
def _data(data: Any, model: Path, most: int | None) -> Iterator[Path]:
    """Return the path of samples; those in memory are stored in a temporary folder for the block."""
    if isinstance(data, str | Path):
        yield Path(data)
    else:
        with stored_samples(data, model_inputs(load(model)), most) as folder:
            yield folder


def quantize(model: Any, calib: Any, output: str | Path | None, options: dict[str, Any]) -> QuantizeReport:
    """Quantize a model; see `onnxq.quantize`."""
    if output is None and not isinstance(model, str | Path):
        raise OnnxqError("a model in memory has no folder for the result: give output")
    with _files(model) as (path,), ExitStack() as stack:
        chosen = QuantizeOptions(path, **options)
        if output is not None:
            chosen = replace(chosen, output=output_file(str(output), chosen.default_name))
        if calib is not None:
            chosen = replace(chosen, calib=stack.enter_context(_data(calib, path, chosen.samples)))
        return run_quantize(chosen)


def quantize_folder(
    folder: str | Path, output: str | Path, calib: str | Path | None, options: dict[str, Any]
) -> FolderReport:
    """Quantize a folder; see `onnxq.quantize_folder`."""
    source = Path(folder)
    if not source.is_dir():
        raise ModelError(f"{source}: is no folder: see onnxq.quantize for a model")
    samples = None if calib is None else Path(calib)
    chosen = QuantizeOptions(source, samples, output=Path(output), **options)
    return run_folder(chosen, own_mode="mode" not in options)


def calibrate(model: Any, calib: Any, output: str | Path, options: dict[str, Any]) -> Statistics:
    """Write calibration statistics; see `onnxq.calibrate`."""
    with _files(model) as (path,):
        chosen = QuantizeOptions(path, **options)
        with _data(calib, path, chosen.samples) as folder:
            return run_calibrate(
                replace(chosen, calib=folder), output_file(str(output), f"{path.stem}.stats.npz")
            )


def evaluate(model: Any, others: Sequence[Any], data: Any, options: dict[str, Any]) -> EvalReport:
    """Compare models; see `onnxq.evaluate`."""
    chosen = EvalOptions(**options)
    with _files(model, *others) as (path, *paths), _data(data, path, chosen.samples) as folder:
        in_memory = not isinstance(data, str | Path)
        if in_memory and chosen.labels is None and (folder / LABELS).is_file():
            chosen = replace(chosen, labels=folder / LABELS)
        return run_evaluate(path, paths, folder, chosen)


def evaluate_folders(
    folders: Sequence[str | Path], data: str | Path, tokens: int, options: dict[str, Any]
) -> FolderEvalReport:
    """Compare folders; see `onnxq.evaluate_folders`."""
    if not folders:
        raise ModelError("no folder to compare: give at least one")
    return run_folders([Path(each) for each in folders], Path(data), EvalOptions(**options), tokens)


def drift(model: Any, data: Any, options: dict[str, Any]) -> DriftReport:
    """Compare values with calibrated ranges; see `onnxq.drift`."""
    reference, source = options.pop("reference", None), options.pop("float_model", None)
    with _files(model) as (path,), ExitStack() as stack:
        chosen = DriftOptions(**options)
        if source is not None:
            chosen = replace(chosen, float_model=stack.enter_context(_files(source))[0])
        if reference is not None:
            chosen = replace(chosen, reference=stack.enter_context(_data(reference, path, chosen.samples)))
        return run_drift(path, stack.enter_context(_data(data, path, chosen.samples)), chosen)


def debug(model: Any, other: Any, data: Any, preprocess: str | None) -> DebugReport:
    """Compare models layer by layer; see `onnxq.debug`."""
    with _files(model, other) as (path, second), _data(data, path, None) as folder:
        return run_debug(path, second, folder, preprocess)


def inspect(model: Any) -> InspectReport:
    """Plan a model; see `onnxq.inspect`."""
    with _files(model) as (path,):
        return inspect_model(path)
