"""Jobs and items as bytes for other processes: models, samples and paths in the form in which they travel."""

import hashlib
import io
import pickle
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePath
from typing import Any

import cloudpickle
import numpy as np
import onnx_ir as ir

from onnxq.data.sample import Sample
from onnxq.types import Array, Feeds

LEAST_ARRAY = 1 << 16
"""Bytes from which an array travels on its own, and is shared by all jobs that hold it."""
CHUNK = 64 << 20
"""Bytes of arrays, at most, that travel together; a larger array travels alone."""


@dataclass(frozen=True)
class Packed:
    """A value as bytes.

    content  pickle of the value without its large arrays
    arrays   the bytes of these
    """

    content: bytes
    arrays: Sequence[Any]

    @property
    def size(self) -> int:
        """Bytes of everything."""
        return len(self.content) + sum(int(each.nbytes) for each in self.arrays)

    @cached_property
    def chunks(self) -> list[tuple[str, Sequence[Any]]]:
        """The arrays in chunks, each with its SHA-256."""
        found: list[list[Any]] = []
        size = 0
        for array in self.arrays:
            if not found or size + array.nbytes > CHUNK:
                found.append([])
                size = 0
            found[-1].append(array)
            size += array.nbytes
        return [(_digest(chunk), chunk) for chunk in found]

    @property
    def digest(self) -> str:
        """SHA-256 of the content and of the digests of all chunks."""
        return _digest([self.content, *(digest.encode() for digest, _ in self.chunks)])


def _digest(parts: Iterable[Any]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def pack(value: Any, *, with_feeds: bool = False) -> Packed:
    """Pickle a value; paths become absolute.

    Args:
        value: the value.
        with_feeds: samples travel with their feeds, not with the function that loads them.
    """
    stream, arrays = io.BytesIO(), list[Any]()

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < LEAST_ARRAY:
            return True
        arrays.append(raw)
        return False

    _Pickler(stream, keep, with_feeds=with_feeds).dump(value)
    return Packed(stream.getvalue(), arrays)


def sendable(arrays: Sequence[Any]) -> list[Array]:
    """Return arrays of bytes, which Dask sends from where they lie; it would copy `bytes` several times."""
    return [np.frombuffer(array, np.uint8) for array in arrays]


def unpack(content: bytes, arrays: Sequence[Array]) -> Any:
    """Return the value of a pickle; its arrays are read-only, because jobs share them."""
    return pickle.loads(content, buffers=[array.data.toreadonly() for array in arrays])


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler that knows models, samples and paths."""

    def __init__(self, stream: io.BytesIO, keep: Any, *, with_feeds: bool) -> None:
        super().__init__(stream, protocol=5, buffer_callback=keep)
        self.with_feeds = with_feeds

    def reducer_override(self, value: Any) -> Any:
        """Return how a value is made again, `NotImplemented` for the usual way."""
        if isinstance(value, ir.Model):
            return _model, _parts_of(value)
        if isinstance(value, PurePath) and not value.is_absolute():
            return Path, (str(Path(value).absolute()),)
        if isinstance(value, Sample) and (self.with_feeds or not value.portable):
            return Sample, (value.name, partial(_given, value.load()), value.label)
        return super().reducer_override(value)


def _given(feeds: Feeds) -> Feeds:
    """Return feeds that came with the sample."""
    return dict(feeds)


def _parts_of(model: ir.Model) -> tuple[bytes, dict[int, Any]]:
    """Serialize a model without its large weights; return these by their position among all."""
    weights = [value for graph in model.graphs() for value in graph.initializers.values()]
    large = {
        i: value
        for i, value in enumerate(weights)
        if value.const_value is not None and value.const_value.nbytes >= LEAST_ARRAY
    }
    arrays = {i: value.const_value.numpy() for i, value in large.items() if value.const_value is not None}
    with _without(list(large.values())):
        return ir.serde.serialize_model(model).SerializeToString(), arrays


@contextmanager
def _without(values: Sequence[ir.Value]) -> Iterator[None]:
    """Give weights the form of external data without a file, within the block."""
    before = [value.const_value for value in values]
    try:
        for value, tensor in zip(values, before, strict=True):
            assert tensor is not None
            value.const_value = ir.ExternalTensor(
                "absent",
                0,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=tensor.name or "",
                base_dir="",
            )
        yield
    finally:
        for value, tensor in zip(values, before, strict=True):
            value.const_value = tensor


def _model(content: bytes, arrays: dict[int, Any]) -> ir.Model:
    """Make a model of its parts."""
    import onnx

    model = ir.serde.deserialize_model(onnx.ModelProto.FromString(content))
    weights = [value for graph in model.graphs() for value in graph.initializers.values()]
    for i, array in arrays.items():
        tensor = weights[i].const_value
        assert tensor is not None
        weights[i].const_value = ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)
    return model
