"""Weights on disk instead of in memory, while a model is processed and while a session maps them."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

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

    The runtime accepts one folder for all external weights, so that it is the root of the file system.

    Yields:
        The folder.

    Raises:
        OutputError: the temporary folder has too little space.
    """
    root = Path(os.path.abspath(os.sep))
    weights = _weights(model)
    inside = _in_memory(weights)
    with ExitStack() as stack:
        try:
            for value, tensor in weights:
                if isinstance(tensor, ir.ExternalTensor):
                    value.const_value = _below(
                        root, Path(tensor.base_dir) / tensor.location, tensor.offset or 0, tensor
                    )
            if sum(tensor.nbytes for _, tensor in inside) >= DISK_THRESHOLD:
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


def _in_memory(weights: list[tuple[ir.Value, Any]]) -> list[tuple[ir.Value, Any]]:
    return [
        (value, tensor)
        for value, tensor in weights
        if not isinstance(tensor, ir.ExternalTensor) and tensor.nbytes >= LEAST_BYTES
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
