"""What the command is doing, told on stderr: a live line on a terminal, a line every 25 s elsewhere.

Code names its work with `activity`; a thread of `live_status` shows the innermost activity once it lasts.
Without `live_status`, as in calls from Python, nothing is shown.
"""

import contextlib
import os
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

PATIENCE, PERIOD, ELSEWHERE = 1.0, 0.5, 25.0
"""Seconds until the line appears on a terminal, between its changes, and between lines elsewhere."""
LEAST_WIDTH, USUAL_WIDTH = 40, 80
"""Columns of a terminal at least, and of one that does not tell."""


@dataclass
class _Activity:
    """An activity: its text or a function that returns it, and since when it is that text."""

    text: str | Callable[[], str]
    since: float
    shown: str = ""

    def line(self, now: float) -> str:
        text = self.text if isinstance(self.text, str) else self.text()
        if self.shown and text != self.shown:
            self.since = now
        self.shown = text
        return f"{text}: {_duration(now - self.since)}"


_activities: list[_Activity] = []
"""Current activities, the innermost last."""
_hidden: list[bool] = []
"""Of each `live_status` block around the present work, whether it shows nothing."""


@contextmanager
def activity(text: str | Callable[[], str]) -> Iterator[None]:
    """Name the work in the block.

    Args:
        text: what is done, such as "measuring latency", or a function for a text that changes.
    """
    entry = _Activity(text, time.monotonic())
    _activities.append(entry)
    try:
        yield
    finally:
        _activities.remove(entry)


def current_activity(otherwise: str) -> str:
    """Return the text of the innermost activity."""
    entry = _activities[-1] if _activities else None
    if entry is None:
        return otherwise
    return entry.text if isinstance(entry.text, str) else entry.text()


@contextmanager
def live_status(*, hidden: bool) -> Iterator[None]:
    """Show the current activity on stderr while the block runs, unless `hidden`."""
    stream = sys.stderr
    _hidden.append(hidden or stream is None)
    done = threading.Event()
    thread = threading.Thread(target=_tell, args=(stream, done), name="onnxq status", daemon=True)
    try:
        if not _hidden[-1]:
            thread.start()
        yield
    finally:
        _hidden.pop()
        done.set()
        if thread.ident is not None:
            thread.join(timeout=2)


def tell(text: str) -> None:
    """Print a line about the work on stderr, if that is a terminal."""
    if sys.stderr is not None and is_terminal(sys.stderr):
        with aside():
            print(fitted(f"onnxq: {text}"), file=sys.stderr, flush=True)  # noqa: T201


def caution(text: str) -> None:
    """Warn of something that does not stop the work: in a line on stderr, from Python by `warnings`."""
    if not _hidden:
        warnings.warn(text, stacklevel=2)
    elif not _hidden[-1]:
        with aside():
            print(fitted(f"onnxq: warning: {text}"), file=sys.stderr, flush=True)  # noqa: T201


def fitted(line: str) -> str:
    """Wrap a line to the width of the terminal on stderr; elsewhere it stays whole, for searches in logs."""
    if sys.stderr is None or not sys.stderr.isatty():
        return line
    # paths stay whole, so that they can be copied
    return textwrap.fill(
        line, _columns(sys.stderr), subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )


def _columns(stream: TextIO) -> int:
    """Return COLUMNS, or the width of a terminal; 80 where it does not tell."""
    given = os.environ.get("COLUMNS", "")
    try:
        found = int(given) if given.isdecimal() else os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        found = 0
    return max(LEAST_WIDTH, found or USUAL_WIDTH)


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def aside() -> Iterator[None]:
    """Take the live line and bars off the terminal while the block prints."""
    if "tqdm" not in sys.modules:
        yield
        return
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        yield


def _tell(stream: TextIO, done: threading.Event) -> None:
    """Show activities until `done` is set."""
    with contextlib.suppress(OSError, ValueError):  # nobody reads stderr any more
        if is_terminal(stream):
            _tell_terminal(stream, done)
        else:
            while not done.wait(ELSEWHERE):
                for entry in _activities[-1:]:
                    print(f"onnxq: {entry.line(time.monotonic())}", file=stream, flush=True)


def _tell_terminal(stream: TextIO, done: threading.Event) -> None:
    bar: Any = None
    try:
        while not done.wait(PERIOD):
            now, current = time.monotonic(), _activities[-1:]
            if not _refresh_other_bars(bar) and current and now - current[0].since >= PATIENCE:
                bar = _line(stream) if bar is None else bar
                bar.set_description_str(current[0].line(now))
            elif bar is not None:
                bar.close()
                bar = None
    finally:
        if bar is not None:
            bar.close()


def _refresh_other_bars(own: Any) -> bool:
    """Draw the bars of progress anew, as their time goes on between steps; return whether there are any."""
    from tqdm import tqdm

    with tqdm.get_lock():  # type: ignore[no-untyped-call]  # a bar that is closing takes it
        bars = list(getattr(tqdm, "_instances", ()))  # tqdm has no public list
        # a bar has its start at the end of its making, which another thread may be in
        others = [bar for bar in bars if bar is not own and hasattr(bar, "start_t") and not bar.disable]
        for bar in others:
            bar.display()
    return bool(others)


def _line(stream: TextIO) -> Any:
    """Return a bar that shows its description alone, which other bars leave in place."""
    from tqdm import tqdm

    return tqdm(bar_format="{desc}", leave=False, file=stream, dynamic_ncols=True)


def _duration(seconds: float) -> str:
    """Format a time: 9 s, 2 min 05 s."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
