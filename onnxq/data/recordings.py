"""Recordings of `onnxq record`: a folder for each model of an application; a model finds its own."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxq.data.arrays import read_npz
from onnxq.data.reading import library_errors
from onnxq.errors import DataError
from onnxq.recording.collection import INPUTS, OUTPUTS, read_manifest, recorded_folders
from onnxq.runtime.sessions import NUMPY_TYPES, InputSpec
from onnxq.types import Feeds

NAMES_SHOWN = 8
"""Most models that a message lists."""


def recorded_inputs(path: Path, specs: list[InputSpec], model: Path | None) -> Path:
    """Return the folder with a model's recorded inputs; `path` itself if it is no recording.

    A model is found by the digest of its file, or of the float file that it was quantized from. A file that
    was not recorded itself gets the only recording whose inputs fit.

    Raises:
        DataError: no recorded model fits, or several do.
    """
    folder = _recorded_folder(path, specs, model)
    return path if folder is None else folder / INPUTS


def recorded_outputs(path: Path, specs: list[InputSpec], model: Path) -> Path | None:
    """Return the folder with a model's recorded outputs; None if `path` is no recording, or has none.

    Raises:
        DataError: as `recorded_inputs`.
    """
    folder = _recorded_folder(path, specs, model)
    return folder / OUTPUTS if folder is not None and (folder / OUTPUTS).is_dir() else None


def read_recorded(folder: Path, sample: str) -> Feeds:
    """Return the outputs of a sample by name; none if they were not recorded.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / sample
    if not path.is_file():
        return {}
    with library_errors(f"sample {path}: not an .npz file of plain arrays, or truncated", "remove it"):
        return read_npz(path)


def _recorded_folder(path: Path, specs: list[InputSpec], model: Path | None) -> Path | None:
    folders = recorded_folders(path)
    if not folders:
        return None
    found = {folder: manifest for folder in folders if (manifest := read_manifest(folder)) is not None}
    digests = _digests(model) if model is not None else set()
    same = [folder for folder, manifest in found.items() if _digests_of(manifest) & digests]
    fitting = same or [folder for folder, manifest in found.items() if _fits(manifest, specs)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(folder.name for folder in folders[:NAMES_SHOWN])
    if fitting:
        raise DataError(
            f"{path}: recordings of {len(fitting)} models fit {model}: name the folder of one of them: "
            f"{', '.join(folder.name for folder in fitting[:NAMES_SHOWN])}"
        )
    raise DataError(f"{path}: the application ran no such model as {model}: recorded are {names}")


def _digests(model: Path) -> set[str]:
    """Return the digest of a file, and of its float file as its metadata has it; none for a file not read."""
    try:
        with open(model, "rb") as stream:
            own = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return set()
    return {own, *_source_digests(model)}


def _source_digests(model: Path) -> set[str]:
    """Return the digest of the float file in the metadata of a quantized file."""
    import onnx

    try:
        content = onnx.load_model(model, load_external_data=False)
    except Exception:  # the reader of the model reports it
        return set()
    return {entry.value for entry in content.metadata_props if entry.key == "onnxq.model_sha256"}


def _digests_of(manifest: Mapping[str, Any]) -> set[str]:
    """Return a recorded file's digest, and the one that metadata has for a file without external data."""
    digest: str = manifest["sha256"]
    try:
        return {digest, hashlib.sha256(bytes.fromhex(digest)).hexdigest()}
    except ValueError:
        return {digest}


def _fits(manifest: Mapping[str, Any], specs: list[InputSpec]) -> bool:
    """Tell whether the recorded inputs have the names, types and ranks of a model's."""
    try:
        recorded = {name: (kind, len(shape)) for name, kind, shape in manifest["inputs"]}
    except (KeyError, TypeError, ValueError):
        return False
    if set(recorded) != {spec.name for spec in specs}:
        return False
    return all(
        spec.dtype is not None
        and NUMPY_TYPES.get(recorded[spec.name][0]) == spec.dtype
        and (not spec.ranked or recorded[spec.name][1] == len(spec.shape))
        for spec in specs
    )
