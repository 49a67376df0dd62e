"""Where a report comes from: command, machine, versions, digests of models and data."""

import hashlib
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from onnxq.graph.files import external_files
from onnxq.runtime.machine import Machine, this_machine
from onnxq.version import __version__

LIBRARIES = ("onnxruntime", "onnx", "onnx-ir", "numpy")


@dataclass(frozen=True)
class Origin:
    """What made a report; it has no date, so that the same command gives the same bytes.

    command   command line; empty for a call from Python
    machine   CPU with its instruction sets, and system
    versions  of onnxq, Python and the libraries
    digests   SHA-256 of each file of a model, as sha256sum prints it, and of the samples' values, by name
    """

    command: str
    machine: Machine
    versions: dict[str, str]
    digests: dict[str, str]


def origin(digests: dict[str, str]) -> Origin:
    """Describe this process; `onnxq.cli` adds the command."""
    versions = {"onnxq": __version__, "Python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in LIBRARIES}
    return Origin("", this_machine(), versions, digests)


def file_digests(name: str, path: Path) -> dict[str, str]:
    """Return the SHA-256 of a model's file, by the given name, and of its external data."""
    files = {name: path} | {f"{name}: {each.name}": each for each in external_files(path)}
    found = {}
    for label, file in files.items():
        with open(file, "rb") as stream:
            found[label] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found
