"""Memory of this process."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading(module: str) -> Iterator[None]:
    """Load a module for the first time without collecting, and leave what that made out of later collections.

    That is a tenth of a small job's time. What is loaded stays anyway.
    """
    if module in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def give_back() -> None:
    """Return freed memory to the system, as far as it can: else the peaks of all stages add up.

    Nodes and values refer to one another, so that a graph's arrays go only with the collector; and glibc keeps what was
    freed in pieces.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)
