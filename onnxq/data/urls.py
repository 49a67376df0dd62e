"""Samples behind URLs such as s3://bucket/calib, read with fsspec (an extra); nothing is kept on disk."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from onnxq.data.preprocessing import Forms
from onnxq.data.reading import library_errors
from onnxq.data.sample import Sample
from onnxq.errors import DataError, first_line
from onnxq.runtime.sessions import InputSpec
from onnxq.types import Feeds

Reader = Callable[[Path, list[InputSpec], Forms], list[Sample]]
URL = re.compile("([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)
"""A URL, also after `Path` has made one slash of two; the letter of a Windows drive is none."""


def url_of(path: Path) -> str | None:
    """Return the URL that a path was made from; None for a path of this machine."""
    found = URL.fullmatch(path.as_posix())
    if found is None or path.exists():
        return None
    scheme, rest = found.groups()
    return f"{scheme}://{'/' if scheme in ('file', 'local') else ''}{rest}"


def url_samples(
    url: str, readers: Mapping[str, Reader], specs: list[InputSpec], forms: Forms
) -> list[Sample]:
    """List the files behind a URL, one sample each, in order of names; they are read on use.

    Args:
        url: of a folder or a file.
        readers: reader by suffix, of files that hold one sample.
        specs: the model's inputs.
        forms: the preprocessing.

    Raises:
        DataError: fsspec or the package of the protocol is missing, or nothing can be read.
    """
    system, root = _opened(url)
    with library_errors(f"{url}: cannot be listed", "check the URL and the access to it"):
        files = sorted(system.find(root))
    found = [
        Sample(_name(file, root), partial(_load, url, file, reader, specs, forms))
        for file in files
        if (reader := readers.get(PurePosixPath(file).suffix.lower())) is not None
    ]
    if not found:
        known = ", ".join(sorted(readers))
        raise DataError(f"{url}: no sample found among {len(files)} files: give {known}")
    return found


def _name(file: str, root: str) -> str:
    """Return the name of a sample: its path below the root."""
    inside = file.removeprefix(root).lstrip("/")
    return inside or PurePosixPath(file).name


def _opened(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        DataError: a package is missing, or the URL means nothing.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise DataError(f"{url}: URLs need fsspec: pip install fsspec") from error
    try:
        system, root = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"{url}: {first_line(error)}: install the package, or check the URL") from error
    return system, str(root)


def _load(url: str, file: str, reader: Reader, specs: list[InputSpec], forms: Forms) -> Feeds:
    """Read one file."""
    system, _ = _opened(url)
    with TemporaryDirectory() as folder:
        local = Path(folder) / PurePosixPath(file).name
        with library_errors(f"{file}: cannot be read", f"check {url}"):
            system.get_file(file, str(local))
        (sample,) = reader(local, specs, forms)
        return sample.load()
