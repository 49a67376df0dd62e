"""Versions of the packages that decide the bytes of a result: client and workers need the same."""

import importlib.metadata
import platform

from onnxq.errors import OnnxqError
from onnxq.runtime.machine import this_machine
from onnxq.version import __version__

PACKAGES = ("onnxruntime", "numpy", "onnx", "onnx-ir")


def own_versions() -> dict[str, str]:
    """Return the versions in this process, by name."""
    python = ".".join(platform.python_version_tuple()[:2])
    installed = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"onnxq": __version__, **installed, "python": python}


def instruction_sets() -> str:
    """Return the instruction sets of this CPU that select kernels, which decide how sums are rounded."""
    machine = this_machine()
    return " ".join([machine.system.split()[-1], *machine.instructions])


def check_versions(wanted: dict[str, str], worker: str) -> None:
    """Compare the client's versions with those of this process, a worker.

    Raises:
        OnnxqError: one differs.
    """
    found = own_versions()
    for name, version in wanted.items():
        if found.get(name) != version:
            raise difference(worker, name, found.get(name), version)


def difference(worker: str, name: str, found: str | None, wanted: str) -> OnnxqError:
    """Return the error of a worker with another version of a package, or without it."""
    has = "no" if found is None else f"{found} of"
    return OnnxqError(
        f"--cluster: worker {worker} has {has} {name}, and this machine {wanted}: "
        "install the same version on both"
    )
