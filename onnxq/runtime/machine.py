"""The machine that a measurement was made on."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

INSTRUCTION_SETS = (
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
"""Instruction sets that select integer kernels."""


@dataclass(frozen=True)
class Machine:
    """CPU with its relevant instruction sets, and software versions."""

    cpu: str
    cores: int
    instructions: list[str]
    system: str
    python: str
    onnxruntime: str


def this_machine() -> Machine:
    """Describe this machine; the CPU's name is the one that it reports."""
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
        [flag for flag in INSTRUCTION_SETS if flag in flags],
        system,
        platform.python_version(),
        onnxruntime.__version__,
    )
