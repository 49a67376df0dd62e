"""NumPy files: `.npy` for models with one input, `.npz` with the input names as keys."""

import threading
from functools import partial
from pathlib import Path

import numpy as np

from onnxq.data.preprocessing import Forms
from onnxq.data.reading import check_bytes, check_count, library_errors
from onnxq.data.sample import Sample
from onnxq.errors import DataError
from onnxq.runtime.sessions import InputSpec
from onnxq.types import Array, Feeds

PARSING = threading.Lock()
"""Lock around NumPy's header parser: two threads at a time sometimes fail in Python 3.11 (SystemError: AST
constructor recursion depth mismatch)."""
SAVE_AGAIN = "remove the file or save it again"

MAPPED_BYTES = 1 << 20
"""Bytes above which an array stays in its file."""


def read_npz(path: Path) -> Feeds:
    """Read all arrays of a file by key; raise what NumPy and zipfile raise for a damaged one.

    Raises:
        DataError: The arrays take too much memory.
    """
    with PARSING, np.load(path, allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("one array without a key")
        members = file.zip.infolist() if file.zip is not None else []
        check_bytes(str(path), sum(member.file_size for member in members))
        arrays = {key: file[key] for key in file.files}
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):  # the bytes of a member that is no array
            raise ValueError(f"{key} is not an array")
    return arrays


def npy_samples(path: Path, specs: list[InputSpec], _forms: Forms) -> list[Sample]:
    """Make one sample per file; one per row if the input has batch size 1 and the array several rows."""
    spec, array = _only_input(path, specs), _open_npy(path)
    if array.ndim == len(spec.shape) and array.ndim and spec.shape[0] == 1 and array.shape[0] > 1:
        return _rows(path, spec, len(array))
    return [Sample(path.name, lambda: {spec.name: _open_npy(path)})]


def npy_rows(path: Path, specs: list[InputSpec], forms: Forms) -> list[Sample]:
    """Make one sample per row of the only file of a folder, also if the first of several axes is dynamic."""
    spec, array = _only_input(path, specs), _open_npy(path)
    if array.ndim == len(spec.shape) > 1 and spec.shape[0] is None and array.shape[0] > 1:
        return _rows(path, spec, len(array))
    return npy_samples(path, specs, forms)


def _only_input(path: Path, specs: list[InputSpec]) -> InputSpec:
    if len(specs) != 1:
        needed = ", ".join(spec.name for spec in specs)
        raise DataError(
            f"{path}: .npy feeds one input, but the model has [{needed}]: save .npz files with these keys"
        )
    return specs[0]


def _rows(path: Path, spec: InputSpec, count: int) -> list[Sample]:
    check_count(path, count)
    return [Sample(f"{path.name}[{i}]", partial(_row, path, spec.name, i)) for i in range(count)]


def _open_npy(path: Path) -> Array:
    with library_errors(f"sample {path}: not a NumPy array, or truncated", SAVE_AGAIN), PARSING:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            if error.errno is None:
                raise
            raise DataError(
                f"sample {path}: cannot be read: {error.strerror}: check its permissions, and the limit of "
                "open files (ulimit -n)"
            ) from error
        if not isinstance(array, np.ndarray):
            raise ValueError("an .npz file")
        return np.asarray(array)


def _row(path: Path, name: str, index: int) -> Feeds:
    return {name: _in_memory(_open_npy(path)[index : index + 1])}


def _in_memory(array: Array) -> Array:
    """Copy a small array: each mapped one keeps its file open, and a process may open a limited number."""
    return np.array(array) if array.nbytes <= MAPPED_BYTES else array


def npz_samples(path: Path, _specs: list[InputSpec], _forms: Forms) -> list[Sample]:
    """Make one sample per file."""
    return [Sample(path.name, partial(_load_npz, path))]


def _load_npz(path: Path) -> Feeds:
    with library_errors(f"sample {path}: not an .npz file of plain arrays, or truncated", SAVE_AGAIN):
        return read_npz(path)
