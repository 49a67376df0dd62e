"""Samples of a data folder, loaded only on use.

`READERS` maps file suffixes to readers, in groups. Only the first group with files in a folder is read, so
that a read-me or a table beside images is not a sample.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.data.arrays import npy_rows, npy_samples, npz_samples
from onnxq.data.audio import SUFFIXES as AUDIO_SUFFIXES
from onnxq.data.audio import audio_samples
from onnxq.data.images import SUFFIXES as IMAGE_SUFFIXES
from onnxq.data.images import image_samples
from onnxq.data.model_zoo import zoo_folders, zoo_samples
from onnxq.data.preprocessing import Forms
from onnxq.data.python_functions import REFERENCE, function_samples
from onnxq.data.reading import check_bytes, exists, library_errors
from onnxq.data.recordings import recorded_inputs
from onnxq.data.sample import Sample
from onnxq.data.tables import arrow_folders, arrow_samples, csv_samples, parquet_samples
from onnxq.data.text import text_samples
from onnxq.data.urls import url_of, url_samples
from onnxq.errors import DataError
from onnxq.runtime.sessions import InputSpec
from onnxq.types import Array, Feeds

Reader = Callable[[Path, list[InputSpec], Forms], list[Sample]]
"""Function of a file or folder, the model's inputs and the preprocessing."""

LABELS_HEADER = 1 << 12
"""Characters of a file that are searched for the header of a labels file."""
READERS: tuple[dict[str, Reader], ...] = (
    {
        ".npy": npy_samples,
        ".npz": npz_samples,
        **dict.fromkeys(IMAGE_SUFFIXES, image_samples),
        **dict.fromkeys(AUDIO_SUFFIXES, audio_samples),
    },
    {".csv": csv_samples, ".parquet": parquet_samples},
    {".txt": text_samples},
)
"""Readers by suffix; an entry in one of the groups is all that a new reader needs."""
FOLDERS: tuple[tuple[Callable[[Path], list[Path]], Reader], ...] = (
    (zoo_folders, zoo_samples),
    (arrow_folders, arrow_samples),
)
"""Layouts of folders: a function that finds them in a path, and their reader."""


def open_samples(
    path: Path,
    specs: list[InputSpec],
    forms: Forms | None = None,
    most: int | None = None,
    model: Path | None = None,
) -> list[Sample]:
    """List the samples of a folder or a file in order of names, or of `module:function`.

    Args:
        path: folder, file, URL, or module:function.
        specs: the model's inputs.
        forms: the preprocessing; None for the defaults.
        most: most items to read from an iterable of module:function.
        model: file that the samples are for: it finds its own among the models of a recording, and the
            tokenizer and preprocessing beside it are used where `forms` sets none.

    Raises:
        DataError: The path does not exist, or has no readable sample.
    """
    forms = forms or Forms()
    if model is not None:
        forms = replace(forms, beside=model.absolute().parent)
    samples = _open(recorded_inputs(path, specs, model), specs, forms, most)
    if not forms.cast:
        return samples
    dtypes = {spec.name: spec.dtype for spec in specs}
    return [replace(sample, load=partial(_cast, sample, dtypes)) for sample in samples]


def _cast(sample: Sample, dtypes: Mapping[str, Any]) -> Feeds:
    feeds = sample.load()
    result: Feeds = {}
    with library_errors(
        f"sample {sample.name}: conversion to the model's types failed", "correct the values"
    ):
        for name, array in feeds.items():
            dtype = np.dtype(dtypes.get(name, array.dtype))
            check_bytes(sample.name, array.size * dtype.itemsize)
            result[name] = array.astype(dtype)
    return result


def _open(path: Path, specs: list[InputSpec], forms: Forms, most: int | None) -> list[Sample]:
    url = url_of(path)
    if url is not None:
        return url_samples(url, READERS[0], specs, forms)
    if not exists(path):
        if REFERENCE.fullmatch(str(path)):
            samples = function_samples(str(path), specs, most)
            if samples:
                return samples
            raise DataError(f"{path}: returned no samples: return at least one")
        raise DataError(f"{path}: no such data folder: check the path")
    for find, read in FOLDERS:
        folders = find(path)
        if folders:
            prefixes = ["" if folder == path else f"{folder.name}/" for folder in folders]
            named = zip(prefixes, folders, strict=True)
            samples = [
                sample if read is zoo_samples else replace(sample, name=prefix + sample.name)
                for prefix, folder in named
                for sample in read(folder, specs, forms)
            ]
            if not samples:
                raise DataError(f"{path}: a data set without rows: save it again")
            return samples
    if not path.is_file() and not path.is_dir():
        raise DataError(f"{path}: a pipe or device: give a folder or a file")
    files = [path] if path.is_file() else sorted(_files(path))
    for readers in READERS:
        found = [(file, readers[file.suffix.lower()]) for file in files if file.suffix.lower() in readers]
        found = [each for each in found if each[1] is not csv_samples or not is_labels(each[0])]
        samples = []
        for file, reader in found:
            inside = file.relative_to(path if path.is_dir() else path.parent)
            reader = npy_rows if reader is npy_samples and len(found) == 1 else reader
            samples += [
                replace(sample, name=str(inside.parent / sample.name))
                for sample in reader(file, specs, forms)
            ]
        if samples:
            return samples
    known = ", ".join(sorted(suffix for readers in READERS for suffix in readers))
    raise DataError(
        f"{path}: no sample found among {len(files)} files: give {known}, test_data_set_*/input_0.pb, or a "
        "Hugging Face data set on disk"
    )


def _files(path: Path) -> Iterator[Path]:
    """Iterate over the files of a folder and its subfolders, however deep they are."""
    waiting = [path]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    elif entry.is_file():
                        yield Path(entry.path)
        except PermissionError:
            continue
        except OSError as error:
            raise DataError(
                f"{path}: a folder in it cannot be read: {error.strerror}: move the samples to a shorter path"
            ) from error


def is_labels(path: Path) -> bool:
    """Tell whether a CSV has the header of a labels file."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            return {"file", "label"} <= set(re.split(r"[,;\s]+", stream.readline(LABELS_HEADER).strip()))
    except (OSError, UnicodeDecodeError):
        return False


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Choose at most `count` evenly spaced samples, so that a folder sorted by class keeps all classes."""
    if count >= len(samples):
        return list(samples)
    return [samples[i] for i in np.linspace(0, len(samples) - 1, count).round().astype(int)]


@dataclass(frozen=True)
class _Mismatch:
    """Type and shape of an array that does not fit its input, and advice."""

    found: str
    advice: str


def check_feeds(sample: Sample, specs: list[InputSpec]) -> Feeds:
    """Load a sample and check it against the model's inputs.

    Adds a missing batch axis and converts types without loss; changes nothing else.

    Raises:
        DataError: A name, type or shape does not fit.
    """
    feeds = sample.load()
    names = [spec.name for spec in specs]
    missing = [name for name in names if name not in feeds]
    extra = [name for name in feeds if name not in names]
    if missing or extra:
        have, need = ", ".join(sorted(feeds)), ", ".join(names)
        raise DataError(
            f"sample {sample.name}: has inputs [{have}], but the model takes [{need}]: rename or remove them"
        )
    result: Feeds = {}
    for spec in specs:
        array = feeds[spec.name]
        if spec.dtype is None:
            raise DataError(
                f"input '{spec.name}' of the model is not a tensor: give a model with tensor inputs only"
            )
        if len(spec.shape) == array.ndim + 1 and spec.shape[0] in (None, 1):
            array = array[None]
        check_bytes(sample.name, array.size * max(array.itemsize, spec.dtype.itemsize))
        mismatch = _mismatch(spec, array)
        if mismatch is not None:
            where = f"sample {sample.name}: input '{spec.name}'"
            raise DataError(
                f"{where} is {mismatch.found}, but the model takes {spec.describe()}: {mismatch.advice}"
            )
        result[spec.name] = np.ascontiguousarray(array, spec.dtype)
    return result


def _mismatch(spec: InputSpec, array: Array) -> _Mismatch | None:
    found = f"{array.dtype}[{','.join(map(str, array.shape))}]"
    sizes_fit = not spec.ranked or (
        len(spec.shape) == array.ndim
        and all(size is None or size == actual for size, actual in zip(spec.shape, array.shape, strict=True))
    )
    if not sizes_fit:
        return _Mismatch(found, "save it with that shape, or set the preprocessing in [preprocess]")
    if array.dtype != spec.dtype and not np.can_cast(array.dtype, spec.dtype or object, "safe"):
        return _Mismatch(found, f"save it as {spec.dtype}, or set cast = true in [preprocess]")
    return None
