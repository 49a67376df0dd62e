"""NumPy files: `.npy` for models with one input, `.npz` with the input names as keys."""

import threading
import zipfile
from functools import partial
from pathlib import Path

import numpy as np

from onnxq.data.preprocessing import Forms
from onnxq.data.sample import Sample
from onnxq.errors import DataError
from onnxq.runtime.sessions import InputSpec
from onnxq.types import Array, Feeds

PARSING = threading.Lock()
"""Lock around NumPy's header parser: two threads at a time sometimes fail in Python 3.11 (SystemError: AST
constructor recursion depth mismatch)."""

MAPPED_BYTES = 1 << 20
"""Bytes above which an array stays in its file."""


def read_npz(path: Path) -> Feeds:
    """Read all arrays of a file by key."""
    with PARSING, np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def npy_samples(path: Path, specs: list[InputSpec], _forms: Forms) -> list[Sample]:
    """Make one sample per file; one per row if the input has batch size 1 and the array several rows."""
    if len(specs) != 1:
        needed = ", ".join(spec.name for spec in specs)
        raise DataError(
            f"{path}: .npy feeds one input, but the model has [{needed}]: save .npz files with these keys"
        )
    spec = specs[0]
    array = _open_npy(path)
    if array.ndim == len(spec.shape) and array.ndim and spec.shape[0] == 1 and array.shape[0] > 1:
        return [Sample(f"{path.name}[{i}]", partial(_row, path, spec.name, i)) for i in range(array.shape[0])]
    return [Sample(path.name, lambda: {spec.name: _in_memory(_open_npy(path))})]


def _open_npy(path: Path) -> Array:
    try:
        with PARSING:
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(
                f"sample {path}: cannot be read: {error.strerror}: check its permissions, and the limit of "
                "open files (ulimit -n)"
            ) from error
        raise DataError(
            f"sample {path}: not a NumPy array, or truncated: remove the file or save it again"
        ) from error


def _row(path: Path, name: str, index: int) -> Feeds:
    return {name: _in_memory(_open_npy(path)[index : index + 1])}


def _in_memory(array: Array) -> Array:
    """Copy a small array: each mapped one keeps its file open, and a process may open a limited number."""
    return np.array(array) if array.nbytes <= MAPPED_BYTES else array


def npz_samples(path: Path, _specs: list[InputSpec], _forms: Forms) -> list[Sample]:
    """Make one sample per file."""
    return [Sample(path.name, partial(_load_npz, path))]


def _load_npz(path: Path) -> Feeds:
    try:
        return read_npz(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"sample {path}: not an .npz file of plain arrays, or truncated: remove the file or save it again"
        ) from error
