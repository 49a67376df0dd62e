"""A list that does not fit into memory gives the same items."""

import numpy as np
import pytest

from onnxq.runtime.disk_list import DiskList, array_bytes


@pytest.mark.parametrize("in_memory", [0, 400, 10**6])
def test_items_come_back_from_memory_and_from_files(in_memory):
    items = [{"x": np.arange(50, dtype=np.float32) + i, "y": np.array(["a", None], object)} for i in range(5)]
    found = DiskList(iter(items), dict.values, in_memory)
    assert (len(found), found.bytes) == (5, 5 * 216)
    for a, b in zip(items, found, strict=True):
        assert a["y"].tolist() == b["y"].tolist()
        np.testing.assert_array_equal(a["x"], b["x"])
    np.testing.assert_array_equal(found[-1]["x"], items[-1]["x"])
    assert [each["x"][0] for each in found[1:3]] == [1, 2]
    with pytest.raises(IndexError):
        found[5]


def test_items_beyond_the_limit_are_read_on_each_access():
    items = [[np.zeros(100, np.uint8)] for _ in range(4)]
    found = DiskList(items, list, 250)
    assert [found[i] is found[i] for i in range(4)] == [True, True, False, False]
    assert not any(np.shares_memory(a[0], b[0]) for a, b in zip(items, found, strict=True))


def test_an_array_that_occurs_twice_counts_once():
    array = np.zeros(10, np.float32)
    assert array_bytes([array, array, "text", None, array.copy()]) == 80
