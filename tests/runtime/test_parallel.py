"""Work side by side, with results in order."""

import threading
import time
from contextvars import ContextVar

import pytest

from onnxq.runtime.parallel import in_order, one_ahead


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


def test_the_next_item_is_worked_on_while_the_result_before_it_is_used():
    begun = threading.Event()

    def work(item):
        if item == 1:
            begun.set()
        return item

    results = one_ahead(work, range(3))
    assert next(results) == 0
    assert begun.wait(10)
    assert list(results) == [1, 2]


def test_an_error_of_the_next_item_waits_for_its_place():
    setting = ContextVar("setting")
    setting.set("as of the caller")

    def work(item):
        if item == 1:
            raise ValueError(setting.get())
        return item

    results = one_ahead(work, range(3))
    assert next(results) == 0
    with pytest.raises(ValueError, match="as of the caller"):
        next(results)
    assert list(one_ahead(work, [])) == []
