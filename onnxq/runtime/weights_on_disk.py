"""Weights on disk instead of in memory, while a model is processed and while a session maps them."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxq.graph.scratch import ScratchFolder, writing_temporaries

DISK_THRESHOLD = 4 << 20
"""Bytes of weights from which a session reads them from a temporary file.

Otherwise it would copy them into the protobuf, its bytes and the session.
"""
LEAST_BYTES = 1 << 16
"""Bytes from which a single weight is moved."""
PAGE = 4096
"""Alignment of weights in the file, for kernels that read mapped memory."""


@contextmanager
def weights_on_disk(model: ir.Model) -> Iterator[str]:
    """Store large weights in a file and express all locations relative to one folder, within the block.

    The runtime accepts one folder for all external weights, so that it is the root of the file system; of one
    drive on Windows. Weights on other drives are read into memory.

    Yields:
        The folder.

    Raises:
        OutputError: the temporary folder has too little space.
    """
    weights = _weights(model)
    inside = _in_memory(weights)
    root = Path(
        next((_drive(_path_of(tensor)) for _, tensor in weights if _is_external(tensor)), _temporary())
    )
    with ExitStack() as stack:
        try:
            for value, tensor in weights:
                if _is_external(tensor) and _drive(_path_of(tensor)) == str(root):
                    value.const_value = _below(root, _path_of(tensor), tensor.offset or 0, tensor)
                elif _is_external(tensor):
                    value.const_value = ir.Tensor(np.array(tensor.numpy()), name=tensor.name)
            large = sum(tensor.nbytes for _, tensor in inside) >= DISK_THRESHOLD
            if large and _temporary() == str(root):
                scratch = stack.enter_context(ScratchFolder())
                _write_weights(inside, scratch / "weights.data", root)
            yield str(root)
        finally:
            for value, tensor in weights:
                value.const_value = tensor


def move_to_disk(model: ir.Model, folder: ScratchFolder | None = None) -> ScratchFolder | None:
    """Move large weights to a file, in place, if they have at least DISK_THRESHOLD bytes.

    Returns:
        The folder of the file, a new one if none is given.

    Raises:
        OutputError: the temporary folder has too little space.
    """
    inside = _in_memory(_weights(model))
    if sum(tensor.nbytes for _, tensor in inside) < DISK_THRESHOLD:
        return folder
    folder = folder or ScratchFolder()
    _write_weights(inside, folder.path / f"{sum(1 for _ in folder.path.iterdir())}.data", folder.path)
    return folder


def _weights(model: ir.Model) -> list[tuple[ir.Value, Any]]:
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    return [(value, value.const_value) for value in values if value.const_value is not None]


def _is_external(tensor: Any) -> bool:
    return isinstance(tensor, ir.ExternalTensor)


def _path_of(tensor: ir.ExternalTensor) -> Path:
    return Path(tensor.base_dir) / tensor.location


def _drive(path: Path) -> str:
    """Return the root of a path: `/`, or a drive such as `C:\\` on Windows."""
    return path.resolve().anchor


def _temporary() -> str:
    """Return the root of the folder for temporary files."""
    return _drive(Path(tempfile.gettempdir()))


def _in_memory(weights: list[tuple[ir.Value, Any]]) -> list[tuple[ir.Value, Any]]:
    return [
        (value, tensor)
        for value, tensor in weights
        if not _is_external(tensor) and tensor.nbytes >= LEAST_BYTES
    ]


def _write_weights(weights: list[tuple[ir.Value, Any]], path: Path, root: Path) -> None:
    with writing_temporaries(), open(path, "wb") as file:
        for value, tensor in weights:
            offset = -(-file.tell() // PAGE) * PAGE
            file.seek(offset)
            tensor.tofile(file)
            value.const_value = _below(root, path, offset, tensor)


def _below(root: Path, path: Path, offset: int, tensor: Any) -> ir.ExternalTensor:
    location = path.resolve().relative_to(root.resolve())
    return ir.ExternalTensor(
        location,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name or "",
        base_dir=root,
    )
