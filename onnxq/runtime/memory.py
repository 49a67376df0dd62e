"""Memory of this process, and faster imports."""

import ctypes
import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

RARELY_USED = frozenset({"sympy", "onnx_ir._symbolic_shapes"})
"""Modules that onnx_ir imports for arithmetic on symbolic sizes: a third of the import time."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""From malloc.h."""
RETURNED = 32 << 20
"""Bytes from which on a freed block is returned to the system; glibc accepts no larger value."""


@contextmanager
def loading(module: str) -> Iterator[None]:
    """Import a module in the block without garbage collection, now or later, of its objects.

    That saves a tenth of a small job's time; imported modules stay in memory anyway.
    """
    if module in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    sys.meta_path.insert(0, _LAZY_FINDER)
    try:
        yield
    finally:
        sys.meta_path.remove(_LAZY_FINDER)
        gc.freeze()
        gc.enable()


class _LazyFinder(MetaPathFinder):
    """Finder of rarely used modules, which are loaded on first use."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in RARELY_USED else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


_LAZY_FINDER = _LazyFinder()


def reuse_freed_memory() -> None:
    """Let glibc keep freed memory, instead of requesting zeroed pages from the system per inference.

    That saves a twentieth of a small job's time. The setting affects the whole process: it is for commands,
    not for the library.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, RETURNED)
            mallopt(M_TRIM_THRESHOLD, 2 * RETURNED)


def release_freed_memory() -> None:
    """Return freed memory to the system; otherwise the peaks of all stages add up.

    Nodes and values form reference cycles: only the collector frees a graph's arrays. glibc keeps freed small
    blocks.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)
