"""Quantization of the models of one folder, each in the mode that suits it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from onnxq.data.preprocessing import Forms
from onnxq.data.samples import check_feeds, open_samples
from onnxq.errors import DataError, NothingToQuantize
from onnxq.exports.decoder_steps import Generations, store_steps
from onnxq.exports.parts import DECODERS, Export, Part
from onnxq.graph.files import external_files, file_bytes
from onnxq.graph.scratch import ScratchFolder
from onnxq.options import Mode, QuantizeOptions, Rounding, WeightType
from onnxq.pipeline import quantize
from onnxq.recording.collection import recorded_folders
from onnxq.report.quantization import QuantizeReport
from onnxq.runtime.status import activity

AS_IT_IS = "as it is"
ENOUGH = 0.97
"""Share of steps with float's token above which a decoder keeps ranges at run time."""


@dataclass(frozen=True)
class FolderRow:
    """A model of the folder.

    file    path in the folder
    mode    mode of quantization; "as it is" for a copied file
    note    why this mode
    unused  why the samples of the user were not used; empty where they were
    tokens  share of steps in which a decoder chooses float's token, 0..1; None where it was not measured
    report  report of the quantization; None for a copied file
    """

    file: str
    mode: str
    note: str
    bytes_before: int
    bytes_after: int
    unused: str = ""
    tokens: float | None = None
    report: QuantizeReport | None = None


def quantize_export(
    options: QuantizeOptions, export: Export, building: Path, forms: Forms, *, own_mode: bool
) -> list[FolderRow]:
    """Quantize the models of one folder.

    Args:
        options: options of the user; `model` is the whole folder.
        export: the models, in this folder or below it.
        building: folder to fill.
        forms: the preprocessing.
        own_mode: whether each model gets the mode that suits it, instead of `options.mode`.

    Raises:
        OnnxqError: a model cannot be used.
    """
    rows = []
    with _generations(options, export, forms) as (generations, why):
        for part in export.parts:
            name = part.path.relative_to(options.model)
            path = building / name
            path.parent.mkdir(parents=True, exist_ok=True)
            own = replace(options, model=part.path, output=path, force=False, keep_failed=True)
            steps = generations.folders.get(part.role) if generations is not None else None
            if steps is not None:  # all of them, so that no warning counts those of a temporary folder
                own = replace(own, samples=max(1, sum(1 for _ in steps.rglob("*.npz"))))
            if generations is not None and steps is not None and own_mode:
                rows.append(_decoder(replace(own, calib=steps), part, str(name), generations))
                continue
            calib, reason = _calib(options, part, forms) if steps is None else (steps, "")
            if part.role in DECODERS and why:
                reason = why
            mode = options.mode if not own_mode else Mode.DYNAMIC if calib is None else Mode.STATIC
            row = _quantized(replace(own, calib=calib, mode=mode), str(name), reason)
            rows.append(replace(row, unused=reason if calib is None else ""))
    return rows


@contextmanager
def _generations(
    options: QuantizeOptions, export: Export, forms: Forms
) -> Iterator[tuple[Generations | None, str]]:
    """Return the steps of the decoders, in a temporary folder; or None, and the reason if there is one."""
    if options.calib is None or not export.routes or recorded_folders(options.calib):
        yield None, ""
        return
    with ScratchFolder() as folder:
        found, reason = None, ""
        try:
            found = store_steps(export, options.calib, forms, folder, options.samples)
        except DataError as error:
            reason = str(error)
        yield found, reason


def _calib(options: QuantizeOptions, part: Part, forms: Forms) -> tuple[Path | None, str]:
    """Return the samples if they fit a model; otherwise None and the reason."""
    if options.calib is None:
        return None, "no samples: give --calib"
    try:
        found = open_samples(options.calib, part.specs, forms, options.samples, part.path)
        check_feeds(found[0], part.specs)
    except DataError as error:
        return None, str(error)
    return options.calib, ""


def _quantized(options: QuantizeOptions, name: str, note: str) -> FolderRow:
    """Quantize one model; copy it where nothing can be quantized."""
    before, path = file_bytes(options.model), options.destination
    try:
        report = quantize(options)
    except NothingToQuantize as error:
        _copy(options.model, path)
        reasons = "; ".join(each for each in (note, str(error)) if each)
        return FolderRow(name, AS_IT_IS, reasons, before, before)
    return FolderRow(name, options.mode, note, before, file_bytes(path), report=report)


def _decoder(options: QuantizeOptions, part: Part, name: str, generations: Generations) -> FolderRow:
    """Quantize a decoder with ranges at run time; where its tokens are others then, its weights alone."""
    path, found = options.destination, []
    # in 8 bits, rounding to nearest keeps more tokens than moments of few steps do
    rounding = Rounding.RTN if options.rounding == Rounding.AUTO else options.rounding
    candidates = (
        replace(options, mode=Mode.DYNAMIC),
        replace(options, mode=Mode.WEIGHTS, weight_type=WeightType.INT8, rounding=rounding),
    )
    with ScratchFolder(path.parent) as scratch:
        for number, candidate in enumerate(candidates):
            file = scratch / str(number) / path.name
            file.parent.mkdir()
            row = _quantized(replace(candidate, output=file), name, "")
            with activity("comparing the tokens of the decoder"):
                row = replace(row, tokens=generations.agreement(part, file))
            found.append((row, file))
            if row.mode == AS_IT_IS or (row.tokens or 0) >= ENOUGH:
                break
        row, file = max(found, key=lambda each: each[0].tokens or 0)
        for written in file.parent.iterdir():
            written.rename(path.parent / written.name)
    others = [each for each, _ in found if each is not row]
    note = f"{row.tokens:.1%} of the tokens are float's"
    note += "".join(f", {each.tokens:.1%} with --mode {each.mode}" for each in others)
    return replace(row, note=note)


def _copy(model: Path, path: Path) -> None:
    """Copy a model and its external data."""
    shutil.copyfile(model, path)
    for file in external_files(model):
        copy = path.parent / file.relative_to(model.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
