"""Memory of this process."""

import ctypes
import gc
import sys


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
