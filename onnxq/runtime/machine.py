"""What a measurement was made on."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

INTERESTING = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "avx512_fp16",
    "asimddp",
    "i8mm",
    "sve",
)
"""Instruction sets that change which integer kernels run."""


@dataclass(frozen=True)
class Machine:
    """The CPU with the instruction sets that matter, and the versions."""

    cpu: str
    cores: int
    instructions: list[str]
    system: str
    python: str
    onnxruntime: str


def this_machine() -> Machine:
    """Read from the system; the CPU's name is what it calls itself."""
    import onnxruntime

    facts: dict[str, str] = {}
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    name = facts.get("model name") or platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    system = f"{platform.system()} {platform.machine()}"
    return Machine(
        name,
        cores,
        [flag for flag in INTERESTING if flag in flags],
        system,
        platform.python_version(),
        onnxruntime.__version__,
    )
