"""Progress bars: on stderr of a terminal, and in notebooks."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any

_HIDDEN: ContextVar[bool] = ContextVar("hidden progress", default=False)


@contextmanager
def hidden_progress(hidden: bool) -> Iterator[None]:
    """Show no progress in the block if `hidden`."""
    token = _HIDDEN.set(hidden or _HIDDEN.get())
    try:
        yield
    finally:
        _HIDDEN.reset(token)


def in_notebook() -> bool:
    """Tell whether the code runs in a notebook that can show bars of its own."""
    return "ipykernel" in sys.modules and find_spec("ipywidgets") is not None


def progress(items: Any = None, **settings: Any) -> Any:
    """Return a tqdm bar: a notebook's own there, otherwise text on a terminal and nothing elsewhere.

    Args:
        items: what the bar counts; None with `total` in `settings`.
        **settings: those of tqdm.
    """
    if in_notebook():
        from tqdm.auto import tqdm

        return tqdm(items, disable=_HIDDEN.get(), **settings)
    from tqdm import tqdm as plain

    return plain(items, disable=True if _HIDDEN.get() else None, **settings)
