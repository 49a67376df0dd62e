"""Temporary folders; those of a killed process are removed by a later run.

A process holds a lock on each of its folders; the system releases it when the process ends, in any way.
A folder that nobody holds is stale. Where the system has no such locks, nothing is swept.
"""

import errno
import os
import re
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from onnxq.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PREFIX, SUFFIX = "onnxq-", ".tmp"
NAME = re.compile(r"\.?onnxq-[a-z0-9_]{8}\.tmp")
"""Names of the folders; a leading dot marks those beside an output."""
SWEEP_SECONDS = 10.0
"""Time after which a place is looked through again."""

_swept: dict[Path, float] = {}
_alive: "weakref.WeakSet[ScratchFolder]" = weakref.WeakSet()


class ScratchFolder:
    """A temporary folder, removed with this object, at the end of its `with` block or by a later run.

    Raises:
        OutputError: the folder cannot be created; the message names the place.
    """

    def __init__(self, beside: Path | None = None) -> None:
        """Create the folder in the folder `beside`, or in the system's one for temporary files."""
        try:
            place = Path(tempfile.gettempdir()) if beside is None else beside
            sweep(place)
            self.path, lock = _locked_folder(place, "." * (beside is not None) + PREFIX)
        except OSError as error:
            if beside is not None:
                raise OutputError(
                    f"{beside}: cannot be written: {reason_of(error)}: choose another folder"
                ) from error
            raise OutputError(no_temporary_space(reason_of(error))) from error
        self._remove = weakref.finalize(self, _remove, self.path, lock)
        _alive.add(self)

    def __reduce__(self) -> Any:
        raise TypeError("a folder of this process: a copy elsewhere would remove it")

    def close(self) -> None:
        """Remove the folder."""
        self._remove()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def remove_all() -> None:
    """Remove all folders of this process, before it ends without its `finally` blocks."""
    for folder in list(_alive):
        folder.close()


def reason_of(error: OSError) -> str:
    """Return the system's reason; NumPy gives none when a disk is full."""
    return error.strerror or os.strerror(errno.ENOSPC)


def no_temporary_space(reason: str = os.strerror(errno.ENOSPC)) -> str:
    """Describe a failure to write temporary files, and its remedy."""
    try:
        place = f"the temporary folder {tempfile.gettempdir()}"
    except OSError:
        return "no folder for temporary files can be written: name one with the environment variable TMPDIR"
    return (
        f"{place} cannot be written: {reason}: free space there, "
        "or name another folder with the environment variable TMPDIR"
    )


@contextmanager
def writing_temporaries() -> Iterator[None]:
    """Turn a system error into an `OutputError` about the temporary folder, within the block."""
    try:
        yield
    except OSError as error:
        raise OutputError(no_temporary_space(reason_of(error))) from error


def sweep(place: Path) -> None:
    """Remove the stale folders of this user's earlier runs from a place."""
    now = time.monotonic()
    if fcntl is None or now - _swept.get(place, -SWEEP_SECONDS) < SWEEP_SECONDS:
        return
    _swept[place] = now
    with suppress(OSError):
        for entry in list(os.scandir(place)):
            if NAME.fullmatch(entry.name):
                with suppress(OSError):
                    _remove_if_stale(Path(entry.path))


def _remove_if_stale(folder: Path) -> None:
    lock = _lock(folder)
    try:
        if os.fstat(lock).st_uid == os.geteuid():
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _locked_folder(place: Path, prefix: str) -> tuple[Path, int | None]:
    """Create a folder and lock it; try again where a sweep removed it in between."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=SUFFIX, dir=place)).absolute()
        if fcntl is None:
            return folder, None
        try:
            lock = _lock(folder)
        except (FileNotFoundError, BlockingIOError):
            continue
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                folder.rmdir()
                raise
            return folder, None  # a file system without locks
        if folder.exists():
            return folder, lock
        os.close(lock)


def _lock(folder: Path) -> int:
    """Open and lock a folder that no other process holds; a link is not followed."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove(folder: Path, lock: int | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        os.close(lock)
