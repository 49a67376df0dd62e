"""Threads of NumPy's matrix products."""

import numpy as np  # noqa: F401
import pytest
from threadpoolctl import ThreadpoolController

from onnxq.runtime.blas import one_thread

BLAS = ThreadpoolController().select(user_api="blas")


def threads() -> set[int]:
    return {library["num_threads"] for library in BLAS.info()}


@pytest.fixture(autouse=True)
def three_threads():
    if not BLAS.info():
        pytest.skip("this NumPy's library has no number of threads")
    with BLAS.limit(limits=3):
        yield


def test_products_have_one_thread_in_the_block_alone():
    with one_thread():
        assert threads() == {1}
    assert threads() == {3}


def test_an_error_ends_the_limit():
    with pytest.raises(ZeroDivisionError), one_thread():
        raise ZeroDivisionError
    assert threads() == {3}


def test_blocks_overlap():
    first, second = one_thread(), one_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert threads() == {1}
    second.__exit__(None, None, None)
    assert threads() == {3}
