"""Samples in the layout of the ONNX Model Zoo: `test_data_set_*/input_N.pb`, N the index of the input."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from onnxq.data.preprocessing import Forms
from onnxq.data.reading import check_bytes, library_errors
from onnxq.data.sample import Sample
from onnxq.errors import DataError
from onnxq.runtime.sessions import InputSpec
from onnxq.types import Array, Feeds


def zoo_folders(path: Path) -> list[Path]:
    """Find the sample folders in `path`, or `path` itself if it is one."""
    candidates = [path, *sorted(path.glob("test_data_set_*"))] if path.is_dir() else []
    return [folder for folder in candidates if folder.is_dir() and any(folder.glob("input_*.pb"))]


def zoo_samples(folder: Path, specs: list[InputSpec], _forms: Forms) -> list[Sample]:
    """Make the one sample of a folder."""
    return [Sample(folder.name, partial(_load, folder, [spec.name for spec in specs]))]


def _load(folder: Path, names: list[str]) -> Feeds:
    feeds: Feeds = {}
    for file in sorted(folder.glob("input_*.pb")):
        match = re.fullmatch(r"input_(\d+)\.pb", file.name)
        if match is None or int(match[1]) >= len(names):
            raise DataError(
                f"sample {file}: the model has {len(names)} inputs: expected input_0.pb to "
                f"input_{len(names) - 1}.pb: rename or remove the file"
            )
        feeds[names[int(match[1])]] = _tensor(file)
    return feeds


def _tensor(file: Path) -> Array:
    with library_errors(f"sample {file}: not an ONNX TensorProto", "remove the file or save it again"):
        check_bytes(str(file), file.stat().st_size)
        tensor = onnx.TensorProto.FromString(file.read_bytes())
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise DataError(
                f"sample {file}: stores its values in another file: save it with its values inside"
            )
        if any(size < 0 for size in tensor.dims):
            raise ValueError("a size below 0")
        return np.asarray(onnx.numpy_helper.to_array(tensor))
