"""The longest time without news on stderr of a command, on a terminal of 80 columns or without one.

    python benchmarks/silence.py [--plain] [--record FILE] -- onnxq quantize model.onnx --calib DIR

On a terminal, news is a line whose text has changed. It exits with 1 after more than 2 s without news on a
terminal, or 30 s without one. --record writes every line with its time: a recording as
text. Needs a system with pseudo-terminals.
"""

import argparse
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from itertools import pairwise
from pathlib import Path

COLUMNS, ROWS = 80, 24
MOST_ON_TERMINAL, MOST_PLAIN = 2.0, 30.0
"""Longest times without news, s."""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

Line = tuple[float, str]


def watch(command: list[str], *, terminal: bool) -> tuple[list[Line], int]:
    """Run a command; return each new line that stderr shows with its time, s, and the exit code."""
    if terminal:
        reading, writing = pty.openpty()
        ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    else:
        reading, writing = os.pipe()
    environment = os.environ | {"TERM": "xterm"}
    environment.pop("COLUMNS", None)
    start = time.monotonic()
    process = subprocess.Popen(command, stderr=writing, stdout=subprocess.DEVNULL, env=environment)
    os.close(writing)
    lines: list[Line] = []
    rest = ""
    while True:
        try:
            data = os.read(reading, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not data:
            break
        *complete, rest = re.split(r"[\r\n]+", rest + data.decode(errors="replace"))
        for text in [*complete, rest]:
            line = CONTROL.sub("", text).strip()
            if line and (not lines or lines[-1][1] != line):
                lines.append((time.monotonic() - start, line))
    os.close(reading)
    code = process.wait()
    lines.append((time.monotonic() - start, f"exit code {code}"))
    return lines, code


def longest_silence(lines: list[Line]) -> tuple[float, str]:
    """Return the longest time between two lines, s, and the line before it."""
    times = [(0.0, "the start"), *lines]
    return max((after - before, text) for (before, text), (after, _) in pairwise(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--plain", action="store_true", help="without a terminal")
    parser.add_argument("--record", type=Path, help="file for the lines and their times")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    lines, code = watch(args.command, terminal=not args.plain)
    if args.record:
        args.record.write_text("".join(f"{at:8.2f}  {line}\n" for at, line in lines), encoding="utf-8")
    silence, before = longest_silence(lines)
    widest = max(len(line) for _, line in lines)
    print(f"{len(lines)} lines in {lines[-1][0]:.1f} s, exit code {code}; widest {widest} characters")
    print(f"longest silence {silence:.2f} s, after: {before}")
    sys.exit(silence > (MOST_PLAIN if args.plain else MOST_ON_TERMINAL))


if __name__ == "__main__":
    main()
