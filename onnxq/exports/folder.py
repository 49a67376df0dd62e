"""`onnxq quantize FOLDER`: every model of a folder in the mode that suits it, all other files copied."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnxq.data.preprocessing import read_forms
from onnxq.data.samples import check_feeds, open_samples
from onnxq.data.text import is_state
from onnxq.errors import DataError, ModelError, NothingToQuantize, OutputError
from onnxq.evaluation.gates import Gate
from onnxq.exports.decoder_steps import store_steps, takes_cache
from onnxq.graph.files import created_folder, external_files, file_bytes, load, umask
from onnxq.graph.scratch import ScratchFolder, reason_of
from onnxq.options import Mode, QuantizeOptions
from onnxq.pipeline import quantize
from onnxq.report.quantization import QuantizeReport
from onnxq.runtime.sessions import InputSpec, model_inputs

SCHEMA = 1
"""Version of the JSON; it changes when a key changes its meaning or is removed."""
AS_IT_IS = "as it is"


@dataclass(frozen=True)
class FolderRow:
    """A model of the folder.

    file    path in the folder
    mode    mode of quantization; "as it is" for a copied file
    note    why this mode
    report  report of the quantization; None for a copied file
    """

    file: str
    mode: str
    note: str
    bytes_before: int
    bytes_after: int
    report: QuantizeReport | None = None


@dataclass(frozen=True)
class FolderReport:
    """Report of a folder: its models, and the number of other files that were copied."""

    folder: str
    output: str
    models: list[FolderRow]
    copied: int
    gates: list[Gate] = field(default_factory=list)
    schema: int = SCHEMA

    @property
    def warnings(self) -> list[str]:
        """Warnings about all models."""
        rows = [(row.file, row.report) for row in self.models if row.report is not None]
        return [f"{file}: {warning}" for file, report in rows for warning in report.warnings]


def quantize_folder(options: QuantizeOptions, *, own_mode: bool) -> FolderReport:
    """Quantize the models of a folder into another folder, under the same names.

    Args:
        options: options of the user; `model` and `output` are folders.
        own_mode: whether each model gets the mode that suits it, instead of `options.mode`.

    Raises:
        OnnxqError: a model or the data cannot be used, or the output exists; nothing was written.
    """
    source, output = options.model, options.output
    if output is None:
        raise OutputError(f"{source}: is a folder: name the folder of the result with -o")
    models = sorted(source.rglob("*.onnx"))
    if not models:
        raise ModelError(f"{source}: holds no .onnx file: check the path")
    target = output.absolute()
    _check(source, target)
    belonging = {*models, *(file.resolve() for model in models for file in external_files(model))}
    others = [file for file in sorted(source.rglob("*")) if file.is_file() and file not in belonging]
    others = [file for file in others if file.resolve() not in belonging]
    try:
        with created_folder(target.parent), ScratchFolder(target.parent) as scratch:
            building = scratch / "folder"
            rows = [
                _quantized(
                    replace(options, model=model), building / model.relative_to(source), source, own_mode
                )
                for model in models
            ]
            for file in others:
                copy = building / file.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
            _check(source, target)
            building.chmod(0o777 & ~umask())
            if target.exists():
                target.rmdir()
            building.rename(target)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {reason_of(error)}") from error
    gates = [gate for row in rows if row.report is not None for gate in row.report.gates]
    return FolderReport(str(source), str(output), rows, len(others), gates)


def _check(source: Path, target: Path) -> None:
    """Refuse a folder that lies in the source, or holds files.

    Raises:
        OutputError: with the reason and a remedy.
    """
    inside = target.resolve()
    if inside.is_relative_to(source.resolve()):
        raise OutputError(f"{target}: lies in the folder of the models: name another folder with -o")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OutputError(f"{target}: exists and is no folder: name another folder with -o")
    if target.is_dir() and any(target.iterdir()):
        raise OutputError(f"{target}: holds files already: remove them, or name another folder with -o")


def _quantized(options: QuantizeOptions, path: Path, root: Path, own_mode: bool) -> FolderRow:
    """Quantize one model to `path`; copy it where nothing can be quantized."""
    path.parent.mkdir(parents=True, exist_ok=True)
    model, name = options.model, str(options.model.relative_to(root))
    before = file_bytes(model)
    specs = model_inputs(load(model))
    with _samples(options, specs) as (calib, why):
        mode, note = (options.mode, "") if not own_mode else _mode(specs, options, calib, why)
        chosen = replace(options, output=path, mode=mode, calib=calib, force=False, keep_failed=True)
        try:
            report = quantize(chosen)
        except NothingToQuantize as error:
            _copy(model, path)
            reasons = "; ".join(each for each in (note, str(error)) if each)
            return FolderRow(name, AS_IT_IS, reasons, before, before)
    return FolderRow(name, mode, note, before, file_bytes(path), report)


def _mode(
    specs: Sequence[InputSpec], options: QuantizeOptions, calib: Path | None, why: str
) -> tuple[str, str]:
    """Choose static with samples, and ranges at run time without, or for a decoder with a cache."""
    if calib is None:
        return Mode.DYNAMIC, why
    if takes_cache(specs, read_forms(options.preprocess)):
        return Mode.DYNAMIC, "a decoder with a cache, compared on real steps"
    return Mode.STATIC, ""


@contextmanager
def _samples(options: QuantizeOptions, specs: list[InputSpec]) -> Iterator[tuple[Path | None, str]]:
    """Return the samples of a model, or None and the reason; steps of a decoder lie in a temporary folder."""
    if options.calib is None:
        yield None, "no samples: give --calib"
        return
    forms = read_forms(options.preprocess)
    with ExitStack() as stack:
        calib, reason = options.calib, ""
        try:
            found = open_samples(calib, specs, forms, options.samples, options.model)
            feeds = check_feeds(found[0], specs)
            if takes_cache(specs, forms) and all(
                0 in array.shape for name, array in feeds.items() if is_state(name, forms.text)
            ):
                calib = stack.enter_context(ScratchFolder())
                store_steps(options.model, found, forms, calib, options.samples)
        except DataError as error:
            reason = str(error)
        yield (None if reason else calib), reason


def _copy(model: Path, path: Path) -> None:
    """Copy a model and its external data."""
    shutil.copyfile(model, path)
    for file in external_files(model):
        copy = path.parent / file.relative_to(model.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
