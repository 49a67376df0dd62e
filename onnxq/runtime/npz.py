"""Arrays as the content of an `.npz` file, alike with all versions of NumPy."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxq.types import Array


def npz_bytes(arrays: Mapping[str, Array], *, compressed: bool = False) -> bytes:
    """Return the content of an `.npz` file.

    NumPy before 2.1 stores `allow_pickle` as one more array, and before 2 it prints a traceback where the
    disk is full. No array may be named `file`.

    Raises:
        ValueError: an array holds Python objects.
    """
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"array '{name}' holds Python objects")
    stream = io.BytesIO()
    keywords: dict[str, Any] = dict(arrays)
    (np.savez_compressed if compressed else np.savez)(stream, **keywords)
    return stream.getvalue()
