"""Memory of this process, and what is loaded into it."""

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
"""Modules that onnx_ir loads for sums of sizes that have names: a third of all loading."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""From malloc.h."""
KEPT = 32 << 20
"""Bytes from which on a piece is returned to the system when it is freed; more, glibc does not take."""


@contextmanager
def loading(module: str) -> Iterator[None]:
    """Load a module for the first time without collecting, and leave what that made out of later collections.

    That is a tenth of a small job's time. What is loaded stays anyway.
    """
    if module in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    sys.meta_path.insert(0, _LATER)
    try:
        yield
    finally:
        sys.meta_path.remove(_LATER)
        gc.freeze()
        gc.enable()


class _Later(MetaPathFinder):
    """Finds modules that load when they are first used, if ever."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in RARELY_USED else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


_LATER = _Later()


def keep_freed() -> None:
    """Let glibc use freed memory again where it would return it to the system and ask for it anew, zeroed, at each inference.

    That is a twentieth of a small job's time. It holds for the whole process, so that it is for commands, not for a library.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, KEPT)
            mallopt(M_TRIM_THRESHOLD, 2 * KEPT)


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
