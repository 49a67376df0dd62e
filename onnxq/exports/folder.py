"""`onnxq quantize FOLDER`: every model of a folder in the mode that suits it, all other files copied."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from onnxq.data.preprocessing import Forms, read_forms
from onnxq.data.python_functions import REFERENCE
from onnxq.data.reading import exists
from onnxq.errors import DataError, ModelError, OutputError
from onnxq.evaluation.gates import Gate
from onnxq.evaluation.notebook import html_table
from onnxq.exports.parts import Export, find_export
from onnxq.exports.quantizing import FolderRow, quantize_export
from onnxq.graph.files import created_folder, external_files, umask
from onnxq.graph.scratch import ScratchFolder, reason_of
from onnxq.options import QuantizeOptions

SCHEMA = 1
"""Version of the JSON; it changes when a key changes its meaning or is removed."""


@dataclass(frozen=True)
class FolderReport:
    """Report of a folder: its models, and the number of other files that were copied."""

    folder: str
    output: str
    models: list[FolderRow]
    copied: int
    gates: list[Gate] = field(default_factory=list)
    schema: int = SCHEMA

    def __repr__(self) -> str:
        return f"<FolderReport {self.output!r}: {len(self.models)} models, {self.copied} other files>"

    def _repr_html_(self) -> str:
        """Return the models for a notebook."""
        rows = [["model", "mode", "bytes before", "bytes after", ""]]
        rows += [
            [row.file, row.mode, str(row.bytes_before), str(row.bytes_after), row.note] for row in self.models
        ]
        return html_table(rows, header=True)

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
    models = models_of(source)
    target = output.absolute()
    _check(source, target)
    belonging = {*models, *(file.resolve() for model in models for file in external_files(model))}
    others = [file for file in sorted(source.rglob("*")) if file.is_file() and file not in belonging]
    others = [file for file in others if file.resolve() not in belonging]
    forms = read_forms(options.preprocess)
    if (
        options.calib is not None
        and not exists(options.calib)
        and not REFERENCE.fullmatch(str(options.calib))
    ):
        raise DataError(f"{options.calib}: no such data folder: check the path")
    try:
        with created_folder(target.parent), ScratchFolder(target.parent) as scratch:
            building = scratch / "folder"
            rows = [
                row
                for export in find_exports(source, forms)
                for row in quantize_export(options, export, building, forms, own_mode=own_mode)
            ]
            if options.calib is not None and all(row.unused for row in rows):
                raise DataError(f"--calib {options.calib}: fits no model of the folder: {rows[0].unused}")
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


def models_of(folder: Path) -> list[Path]:
    """List the models in a folder and its subfolders.

    Raises:
        ModelError: there is none.
    """
    models = sorted(folder.rglob("*.onnx"))
    if not models:
        raise ModelError(f"{folder}: holds no .onnx file: check the path")
    return models


def find_exports(folder: Path, forms: Forms) -> list[Export]:
    """Find the models that belong together: those of each subfolder.

    Raises:
        ModelError: there is none, or one cannot be read.
    """
    models = models_of(folder)
    return [
        find_export(parent, [model for model in models if model.parent == parent], forms)
        for parent in sorted({model.parent for model in models})
    ]


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
