"""Limits on data files, and one `DataError` for each fault that a library finds in one.

Data files are untrusted: a small file may ask for any amount of memory, and the libraries that read it raise
errors of any type.
"""

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnxq.errors import DataError, OnnxqError, first_line

MOST_BYTES = 1 << 30
"""Most bytes of one sample in memory, in any step of its preprocessing."""
FLOAT_BYTES = 4
"""Bytes of a float32, which images and audio become."""
MOST_SAMPLES = 2_000_000
"""Most samples of one file; each takes about 500 bytes before it is loaded."""
MOST_ROW_BYTES = 16 << 20
"""Most bytes of one row of a CSV file."""
MOST_CHARACTERS = 4 << 20
"""Most characters of one text, after the tokenizer's normalizer; a tokenizer takes some 60 bytes for each."""
MOST_SETTINGS_BYTES = 64 << 20
"""Most bytes of a TOML or JSON file that onnxq reads whole."""


@contextmanager
def library_errors(found: str, remedy: str) -> Iterator[None]:
    """Turn any error of a library into `FOUND (first line of the error): REMEDY`.

    Wrap calls of libraries only, because an error in onnxq's own code must not look like a damaged file.

    Raises:
        DataError: The library failed.
    """
    try:
        yield
    except (OnnxqError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        raise DataError(f"{found} ({first_line(error)}): {remedy}") from error


def check_bytes(where: str, size: float) -> None:
    """Refuse a sample that takes more than `MOST_BYTES`.

    Raises:
        DataError: It takes more.
    """
    if size > MOST_BYTES:
        raise DataError(
            f"sample {where}: takes {size / 2**30:.3g} GiB in memory, more than {MOST_BYTES >> 30}: "
            "remove it or make it smaller"
        )


def check_count(where: Path, count: float) -> None:
    """Refuse a file of more than `MOST_SAMPLES` samples.

    Raises:
        DataError: It has more.
    """
    if count > MOST_SAMPLES:
        raise DataError(f"{where}: more than {MOST_SAMPLES:,} samples: give a part of it")


def exists(path: Path) -> bool:
    """Tell whether there is such a path; there is none of more characters than the system allows."""
    try:
        return path.exists()
    except OSError:
        return False


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        OSError: The file cannot be read.
        DataError: The file is too large or not TOML.
    """
    try:
        return tomllib.loads(_read(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:  # tomllib passes on what int() and deep nesting raise
        raise DataError(f"{path}: not a TOML file: {first_line(error)}: correct the file") from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: The file cannot be read.
        DataError: The file is too large.
        ValueError: The file is not JSON.
    """
    try:
        return json.loads(_read(path).decode("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _read(path: Path) -> bytes:
    """Read a whole file; also from a pipe or device, whose size is not known beforehand."""
    with open(path, "rb") as stream:
        content = stream.read(MOST_SETTINGS_BYTES + 1)
    if len(content) > MOST_SETTINGS_BYTES:
        raise DataError(f"{path}: larger than {MOST_SETTINGS_BYTES >> 20} MiB: check the path")
    return content
