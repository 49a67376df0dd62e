"""`onnxq record`: run an application, and record the inputs of its models."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from onnxq.errors import OnnxqError, OutputError
from onnxq.graph.files import created_folder, umask
from onnxq.graph.scratch import ScratchFolder, reason_of
from onnxq.recording.collection import Recording, collect, recorded_folders

BOOTSTRAP = Path(__file__).parent / "bootstrap"
"""Folder that PYTHONPATH names for the application; its sitecustomize.py starts the recorder."""
VARIABLE = "ONNXQ_RECORDING"
FORWARDED = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
"""Signals that are passed on to the application, where the system has them."""
TERMINAL = ("SIGINT", "SIGQUIT", "SIGHUP")
"""Signals that a terminal sends to all processes in its foreground, the application among them."""


@dataclass(frozen=True)
class RecordOptions:
    """Options of `onnxq record`.

    output   folder to write
    samples  most samples of a model
    bytes    most bytes of a model's inputs
    outputs  also record the outputs
    seed     seed of the random sample
    force    replace an earlier recording
    """

    output: Path
    samples: int = 200
    bytes: int = 1 << 30
    outputs: bool = False
    seed: int = 0
    force: bool = False

    def settings(self, parts: Path) -> dict[str, Any]:
        """Return the settings of `onnxq.recording.recorder.Recorder`."""
        return {
            "folder": str(parts),
            "samples": self.samples,
            "bytes": self.bytes,
            "outputs": self.outputs,
            "seed": self.seed,
        }


class RecordKeywords(TypedDict, total=False):
    """Keyword arguments of `onnxq.record`: the fields of `RecordOptions` but the output."""

    samples: int
    bytes: int
    outputs: bool
    seed: int
    force: bool


class Staged:
    """Where the processes of an application record, until the result takes its place.

    parts   folder of the processes' samples
    result  the recording, at the end
    """

    def __init__(self, parts: Path) -> None:
        self.parts = parts
        self.result = Recording("", [])


@contextmanager
def staged_recording(options: RecordOptions) -> Iterator[Staged]:
    """Give the processes a hidden folder beside the output; merge it into the output at the end.

    Nothing appears at the output before it is whole, and nothing if no call was recorded.

    Raises:
        OutputError: the output exists, or cannot be written.
    """
    output = Path(os.path.abspath(options.output))
    _check(output, force=options.force)
    try:
        with created_folder(output.parent), ScratchFolder(output.parent) as scratch:
            staged = Staged(scratch / "parts")
            staged.parts.mkdir()
            yield staged
            building = scratch / "recording"
            building.mkdir()
            staged.result = collect(staged.parts, building, options.samples, options.bytes)
            if staged.result.models:
                _put_in_place(building, output, scratch, force=options.force)
                staged.result = replace(staged.result, folder=str(options.output))
    except OSError as error:
        raise OutputError(f"{options.output}: cannot be written: {reason_of(error)}") from error


def _check(output: Path, *, force: bool) -> None:
    """Refuse an output that exists, unless it is an empty folder, or with `force` an earlier recording.

    Raises:
        OutputError: it may not be replaced.
    """
    if not os.path.lexists(output):
        return
    if output.is_symlink() or not output.is_dir():
        raise OutputError(f"{output}: exists and is no folder: name another folder with -o")
    content = sorted(output.iterdir())
    if content and set(content) != set(recorded_folders(output)):
        raise OutputError(
            f"{output}: exists and holds other files than recordings: name another folder with -o"
        )
    if content and not force:
        raise OutputError(
            f"{output}: exists already: remove it, name another folder with -o, or replace it with --force"
        )


def _put_in_place(building: Path, output: Path, scratch: Path, *, force: bool) -> None:
    _check(output, force=force)  # it may have come since
    if output.exists():
        output.rename(scratch / "before")
    building.chmod(0o777 & ~umask())
    building.rename(output)


def environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that make Python processes record their sessions."""
    path = os.environ.get("PYTHONPATH")
    return {
        VARIABLE: json.dumps(settings),
        "PYTHONPATH": str(BOOTSTRAP) if not path else f"{BOOTSTRAP}{os.pathsep}{path}",
    }


def record_application(command: Sequence[str], options: RecordOptions) -> Recording:
    """Run a command to its end, and record the sessions of all its Python processes.

    Raises:
        OnnxqError: the command cannot be started, or the output cannot be written.
    """
    with staged_recording(options) as staged:
        code = _run(command, os.environ | environment(options.settings(staged.parts)))
    return replace(staged.result, exit_code=code)


def _run(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run a command, pass signals on to it, and return its exit code: 128 + N after signal N."""
    program = shutil.which(command[0])
    if program is None:
        hint = f": write {Path(sys.executable).name} {command[0]}" if command[0].endswith(".py") else ""
        raise OnnxqError(f"{command[0]}: no such program{hint or ': check the command after --'}")
    with _passing_on() as child:
        try:
            process = subprocess.Popen([program, *command[1:]], env=dict(variables))
        except OSError as error:
            raise OnnxqError(
                f"{command[0]}: cannot be started: {error.strerror}: check the command"
            ) from error
        child.append(process)
        code = process.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _passing_on() -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Pass signals on to the processes of the list that is yielded, in the block.

    A terminal sends its own signals to the application too: those are not sent twice. Signals that this
    process was told to ignore stay ignored, in the application too.
    """
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _frame: object) -> None:
        if signal.Signals(number).name in TERMINAL and _in_foreground():
            return
        for child in children:
            child.send_signal(number)

    numbers = [
        getattr(signal, name) for name in dict.fromkeys(("SIGINT", *FORWARDED)) if hasattr(signal, name)
    ]
    # the command line's watcher would end this process before the application has ended
    wakeup = signal.set_wakeup_fd(-1)
    before: dict[int, Callable[..., Any] | int | None] = {}
    try:
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, pass_on)
        yield children
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)


def _in_foreground() -> bool:
    """Tell whether the terminal, if there is one, sends its signals to this process."""
    for stream in (0, 1, 2):
        try:
            return os.tcgetpgrp(stream) == os.getpgrp()
        except (OSError, AttributeError):
            continue
    return False
