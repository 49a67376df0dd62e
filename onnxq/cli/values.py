"""Types of the values of options, which refuse what no file or number can be."""

import errno
import math
import os
from pathlib import Path
from typing import Any

import click

SHOWN = 60
"""Most characters of a refused name that a message repeats."""
NO_SUCH_FILE = frozenset({errno.ENOENT, errno.ENOTDIR})
"""Reasons for which a path does not exist, which the reader of the file reports."""


class FilePath(click.Path):
    """A path of a file or folder, or a text that may be one; refuses names that no file can have."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check the name, and convert it to a path."""
        text = os.fspath(value)
        if not text:
            self.fail("the name is empty.", param, ctx)
        if "\0" in text:
            self.fail("the name holds a NUL character.", param, ctx)
        try:
            text.encode()
            Path(text).stat()
        except UnicodeEncodeError:
            self.fail(f"'{text}' is not UTF-8, which ONNX Runtime requires of names.", param, ctx)
        except OSError as error:
            if error.errno not in NO_SUCH_FILE:
                short = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
                self.fail(f"'{short}': {error.strerror}.", param, ctx)
        return super().convert(text, param, ctx)


class ReportPath(FilePath):
    """The path of a file to write, which has no default name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse a name that ends in a slash."""
        if os.fspath(value).endswith(("/", os.sep)):
            self.fail(f"'{value}' names a folder: name a file in it.", param, ctx)
        return super().convert(value, param, ctx)


class Number(click.FloatRange):
    """A finite number; no limit holds for NaN, and none is infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Convert the text, and refuse NaN and infinite values."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


FILE = FilePath(path_type=Path)
REPORT = ReportPath(path_type=Path)
TEXT_OR_FILE = FilePath()
"""A text, such as the name of a preset or `folder/`, whose meaning the command finds."""
COUNT = click.IntRange(1, 2**31 - 1)
THREADS = click.IntRange(1, 1024)
