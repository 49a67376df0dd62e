"""The program `onnxq`, for the console script and `python -m onnxq`."""

import io
import os
import signal
import sys

from onnxq.cli.interrupts import answer_while_loading


def run() -> None:
    """Run the command line; Ctrl-C is answered before the commands' modules are loaded."""
    answer_while_loading()
    _open_closed_streams()
    from onnxq.cli.commands import main

    try:
        main(prog_name="onnxq")
    finally:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is done, and its exit code stands


def _open_closed_streams() -> None:
    """Open standard streams that the parent closed, so that no file gets their number; escape odd names."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
