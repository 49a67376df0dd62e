"""Ctrl-C and SIGTERM while ONNX Runtime or other native code runs, which Python's handlers wait for.

Python notes a signal at once (`signal.set_wakeup_fd`) but handles it only between two of its instructions. So
a thread reads the note, tells all current runs to end, and ends the process if that does not help.
"""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from onnxq.graph.scratch import remove_all

PATIENCE = 1.5
"""Seconds after a signal in which the command must clean up and end; then the process ends."""


class Stoppable(Protocol):
    """A run that ends with an error soon after `terminate` is set, as `onnxruntime.RunOptions` has it."""

    terminate: bool


class _State:
    """State of the process.

    runs     current runs
    stopped  whether a signal has arrived
    kept     blocks that go on after Ctrl-C
    read     signals that the watching thread has read
    watched  whether there is such a thread
    """

    def __init__(self) -> None:
        self.runs: set[Stoppable] = set()
        self.stopped = False
        self.kept = self.read = 0
        self.watched = False
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)


_state = _State()


@contextmanager
def stoppable(run: Stoppable) -> Iterator[None]:
    """Let a signal end the run in the block."""
    with _state.lock:
        _state.runs.add(run)
        if _state.stopped:
            run.terminate = True
    try:
        yield
    finally:
        with _state.lock:
            _state.runs.discard(run)


@contextmanager
def stopping_runs(message: str) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the block within PATIENCE, also where native code runs.

    The handlers of the signals stay as they are. Only for the main thread of a command.

    Args:
        message: last words on stderr if the process has to be ended in native code.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader, message), daemon=True)
    watcher.start()
    _state.watched = True
    try:
        yield
    finally:
        _state.watched = False
        signal.set_wakeup_fd(wakeup)
        writer.close()
        watcher.join()
        reader.close()
        _state.stopped = False


@contextmanager
def going_on_after_interrupt() -> Iterator[None]:
    """Let Ctrl-C end the block, and the current run in it, but not the process: what follows goes on."""
    with _state.lock:
        _state.kept += 1
        read = _state.read
    try:
        yield
    except KeyboardInterrupt:
        # the thread that watches must have read this signal before the block ends: it counts as the block's
        with _state.changed:
            _state.changed.wait_for(lambda: _state.read > read or not _state.watched, PATIENCE)
    finally:
        with _state.lock:
            _state.kept -= 1
            _state.stopped = False


def _watch(reader: socket.socket, message: str) -> None:
    """Stop all runs when a signal is noted; end the process if the command does not end by itself."""
    number = 0
    try:
        while noted := reader.recv(1):
            if noted[0] in (signal.SIGINT, signal.SIGTERM):
                if not (_state.kept and noted[0] == signal.SIGINT):
                    number = number or noted[0]
                    reader.settimeout(PATIENCE)
                _stop_runs()
                with _state.changed:
                    _state.read += 1
                    _state.changed.notify_all()
    except TimeoutError:
        remove_all()
        os.write(2, message.encode() + b"\n")
        os._exit(128 + number)


def _stop_runs() -> None:
    with _state.lock:
        _state.stopped = True
        for run in _state.runs:
            run.terminate = True
