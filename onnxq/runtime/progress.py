"""Progress bars on stderr, shown on a terminal only."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_HIDDEN: ContextVar[bool] = ContextVar("hidden progress", default=False)


@contextmanager
def hidden_progress(hidden: bool) -> Iterator[None]:
    """Show no progress in the block if `hidden`."""
    token = _HIDDEN.set(hidden or _HIDDEN.get())
    try:
        yield
    finally:
        _HIDDEN.reset(token)


def no_progress() -> bool | None:
    """Return the argument `disable` of tqdm: True hides bars, None shows them on a terminal only."""
    return True if _HIDDEN.get() else None
