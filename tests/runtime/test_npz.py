"""Content of `.npz` files."""

import io

import numpy as np
import pytest

from onnxq.runtime.npz import npz_bytes


@pytest.mark.parametrize("compressed", [False, True])
def test_the_file_holds_these_arrays_and_nothing_else(compressed):
    arrays = {"a": np.arange(3), "b c": np.float32([[1]]), "name": np.array("x")}
    with np.load(io.BytesIO(npz_bytes(arrays, compressed=compressed)), allow_pickle=False) as found:
        assert list(found) == list(arrays)
        assert all(np.array_equal(found[name], array) for name, array in arrays.items())


def test_python_objects_are_refused():
    with pytest.raises(ValueError, match="array 'a' holds Python objects"):
        npz_bytes({"a": np.array([None])})
