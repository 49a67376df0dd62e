"""Threads of NumPy's matrix products.

A product on several threads is divided among them, and its sums round by the division. On one thread they
round alike on any number of cores; whoever has much to multiply works on several layers side by side.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import numpy as np  # noqa: F401  its library has to be loaded before it can be found
from threadpoolctl import ThreadpoolController


@dataclass(eq=False)
class _SharedLimit:
    """The limit of all blocks that overlap: the number of threads belongs to the process.

    blas      the libraries; those without such a number are not among them
    inside    blocks that have begun and not ended
    limit     the limit, while there is any block
    changing  held while these change
    """

    blas: ThreadpoolController
    inside: int = 0
    limit: AbstractContextManager[object] | None = None
    changing: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        with self.changing:
            if not self.inside:
                self.limit = self.blas.limit(limits=1)
                self.limit.__enter__()
            self.inside += 1

    def end(self) -> None:
        with self.changing:
            self.inside -= 1
            if not self.inside and self.limit is not None:
                self.limit.__exit__(None, None, None)


_SHARED = _SharedLimit(ThreadpoolController().select(user_api="blas"))


@contextmanager
def one_thread() -> Iterator[None]:
    """Give matrix products one thread in the block; then the number is what it was before."""
    _SHARED.begin()
    try:
        yield
    finally:
        _SHARED.end()
