"""Threads of NumPy's matrix products."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "OPENBLAS_NUM_THREADS"
"""Read once, when NumPy is loaded."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Give matrix products one thread if NumPy is first loaded in the block, unless the user sets a number.

    Samples and layers run side by side anyway: threads of each product would only wait for one another. The
    environment of programs that are started later stays as it is.
    """
    if VARIABLE in os.environ:
        yield
        return
    os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        del os.environ[VARIABLE]
