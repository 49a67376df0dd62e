"""Work side by side, with results in order."""

import threading
import time

import pytest

from onnxq.runtime.parallel import in_order


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_items(workers):
    def slow_first(item):
        time.sleep(0.02 if item == 0 else 0)
        return item * item

    assert list(in_order(slow_first, range(7), workers)) == [i * i for i in range(7)]


def test_an_error_is_raised_in_the_place_of_its_item():
    def work(item):
        if item == 2:
            raise ValueError("two")
        return item

    results = in_order(work, range(5), 3)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)


def test_items_are_read_no_faster_than_results_are_taken():
    read = []

    def items():
        for i in range(100):
            read.append(i)
            yield i

    results = in_order(lambda i: i, items(), 2)
    next(results)
    assert len(read) <= 4
    results.close()
    assert threading.active_count() < 10
