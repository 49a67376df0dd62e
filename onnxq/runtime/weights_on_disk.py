"""Weights on disk instead of in memory: for as long as a model is worked on, and while a session opens, which maps them."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir

SPILL = 4 << 20
"""Bytes of weights in memory from which a session reads them from a temporary file instead: further
copies of them, in the protobuf, its bytes and the session, would count."""
LEAST = 1 << 16
"""Bytes from which one weight is worth it."""
PAGE = 4096
"""Weights begin at multiples of it: kernels that read what is mapped want it aligned."""


@contextmanager
def weights_on_disk(model: ir.Model) -> Iterator[str]:
    """Let all weights that lie in files lie below one folder, which is returned; undone at the end.

    The runtime takes one folder for all, so it is the root, and every location is given from there.
    """
    root = Path(os.path.abspath(os.sep))
    held = _weights(model)
    inside = _in_memory(held)
    with tempfile.TemporaryDirectory(prefix="onnxq-") as scratch:
        try:
            for value, tensor in held:
                if isinstance(tensor, ir.ExternalTensor):
                    value.const_value = _below(
                        root, Path(tensor.base_dir) / tensor.location, tensor.offset or 0, tensor
                    )
            if sum(tensor.nbytes for _, tensor in inside) >= SPILL:
                _spill(inside, Path(scratch) / "weights.data", root)
            yield str(root)
        finally:
            for value, tensor in held:
                value.const_value = tensor


def move_to_disk(model: ir.Model, folder: Path | None = None) -> Path | None:
    """Let a file hold the large weights, in place, where they are worth it.

    Returns its folder, a new one if none is given; it is to be removed when the model is done with.
    """
    inside = _in_memory(_weights(model))
    if sum(tensor.nbytes for _, tensor in inside) < SPILL:
        return folder
    folder = folder or Path(tempfile.mkdtemp(prefix="onnxq-"))
    _spill(inside, folder / f"{sum(1 for _ in folder.iterdir())}.data", folder)
    return folder


def _weights(model: ir.Model) -> list[tuple[ir.Value, Any]]:
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    return [(value, value.const_value) for value in values if value.const_value is not None]


def _in_memory(held: list[tuple[ir.Value, Any]]) -> list[tuple[ir.Value, Any]]:
    return [
        (value, tensor)
        for value, tensor in held
        if not isinstance(tensor, ir.ExternalTensor) and tensor.nbytes >= LEAST
    ]


def _spill(weights: list[tuple[ir.Value, Any]], path: Path, root: Path) -> None:
    with open(path, "wb") as file:
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
