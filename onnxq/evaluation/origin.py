"""Where a report comes from: command, machine, versions, digests of models and data."""

import platform
from dataclasses import dataclass
from importlib import metadata

from onnxq.runtime.machine import Machine, this_machine
from onnxq.version import __version__

LIBRARIES = ("onnxruntime", "onnx", "onnx-ir", "numpy")


@dataclass(frozen=True)
class Origin:
    """What made a report; it has no date, so that the same command gives the same bytes.

    command   command line; empty for a call from Python
    machine   CPU with its instruction sets, and system
    versions  of onnxq, Python and the libraries
    digests   SHA-256 of each model and of the data, by path
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
