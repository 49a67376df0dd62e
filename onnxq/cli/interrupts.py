"""Ctrl-C and SIGTERM: at once while modules load, by an exception that cleans up while a command works."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C."""


class Terminated(BaseException):
    """SIGTERM: ends the command through its `finally` blocks, which remove temporary files."""


def leave_at_once(*_: object) -> None:
    """Print a line and end the process, for the time in which there is nothing to clean up.

    An exception would be swallowed or replaced in some imports of native modules.
    """
    os.write(2, b"onnxq: error: interrupted, nothing was written\n")
    os._exit(INTERRUPTED)


def answer_while_loading() -> None:
    """Leave at once on Ctrl-C, unless the parent process made this one ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave_at_once)


@contextmanager
def loading_modules() -> Iterator[None]:
    """Leave at once on Ctrl-C in the block, which imports modules and does nothing else."""
    before = signal.getsignal(signal.SIGINT)
    answer_while_loading()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def cleaning_up() -> Iterator[None]:
    """Raise `KeyboardInterrupt` or `Terminated` in the block, so that it can remove temporary files."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if before[signal.SIGINT] is leave_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if before[signal.SIGTERM] is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated
