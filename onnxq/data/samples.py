"""A data folder as a list of samples, each loaded only when it is used.

Which reader takes a file is decided by its suffix; `READERS` names them all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnxq.data.arrays import npy_samples, npz_samples
from onnxq.data.images import SUFFIXES as IMAGE_SUFFIXES
from onnxq.data.images import Preprocess, image_samples
from onnxq.data.source import Sample
from onnxq.data.zoo import zoo_folders, zoo_samples
from onnxq.errors import DataError
from onnxq.model.runtime import InputSpec
from onnxq.schemes import Array, Feeds

Reader = Callable[[Path, list[InputSpec], Preprocess | None], list[Sample]]

READERS: dict[str, Reader] = {".npy": npy_samples, ".npz": npz_samples, **dict.fromkeys(IMAGE_SUFFIXES, image_samples)}


def open_samples(path: Path, specs: list[InputSpec], preprocess: Preprocess | None = None) -> list[Sample]:
    """All samples of a folder (or of one file), by name.

    Raises:
        DataError: no such folder, or nothing in it that can be read.
    """
    if not path.exists():
        raise DataError(f"{path}: no such data folder")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    zoo = zoo_folders(path)
    if zoo:
        return [sample for folder in zoo for sample in zoo_samples(folder, specs)]
    samples: list[Sample] = []
    for file in files:
        reader = READERS.get(file.suffix.lower())
        if reader is not None:
            inside = file.relative_to(path if path.is_dir() else path.parent)
            samples += [replace(sample, name=str(inside.parent / sample.name)) for sample in reader(file, specs, preprocess)]
    if not samples:
        known = ", ".join(sorted(READERS))
        raise DataError(f"{path}: no sample found among {len(files)} files: expected {known}, or test_data_set_*/input_0.pb")
    return samples


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most `count` samples, evenly spaced, so that a folder sorted by class gives some of each."""
    if count >= len(samples):
        return list(samples)
    return [samples[i] for i in np.linspace(0, len(samples) - 1, count).round().astype(int)]


@dataclass(frozen=True)
class _Problem:
    """What is wrong with one input of a sample."""

    found: str
    advice: str


def check_feeds(sample: Sample, specs: list[InputSpec]) -> Feeds:
    """Load a sample and hold it against the model's inputs.

    A missing batch axis is added and a lossless conversion of type made; nothing else is changed.

    Raises:
        DataError: a name, type or shape does not fit; the message says which and what was expected.
    """
    feeds = sample.load()
    names = [spec.name for spec in specs]
    missing = [name for name in names if name not in feeds]
    extra = [name for name in feeds if name not in names]
    if missing or extra:
        have, need = ", ".join(sorted(feeds)), ", ".join(names)
        raise DataError(f"sample {sample.name}: has inputs [{have}], the model takes [{need}]: rename or remove them")
    result: Feeds = {}
    for spec in specs:
        array = feeds[spec.name]
        if spec.dtype is None:
            raise DataError(f"input '{spec.name}' of the model is no tensor: such a model cannot be fed from files")
        if len(spec.shape) == array.ndim + 1 and spec.shape[0] in (None, 1):
            array = array[None]
        problem = _problem(spec, array)
        if problem is not None:
            where = f"sample {sample.name}: input '{spec.name}'"
            raise DataError(f"{where} is {problem.found}, the model takes {spec.describe()}: {problem.advice}")
        result[spec.name] = np.ascontiguousarray(array, spec.dtype)
    return result


def _problem(spec: InputSpec, array: Array) -> _Problem | None:
    found = f"{array.dtype}[{','.join(map(str, array.shape))}]"
    sizes_fit = len(spec.shape) == array.ndim and all(
        size is None or size == actual for size, actual in zip(spec.shape, array.shape, strict=True)
    )
    if not sizes_fit:
        return _Problem(found, "save it with that shape")
    if array.dtype != spec.dtype and not np.can_cast(array.dtype, spec.dtype or object, "safe"):
        return _Problem(found, f"save it as {spec.dtype}")
    return None
