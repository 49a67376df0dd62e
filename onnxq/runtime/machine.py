"""The machine that a measurement was made on."""

import importlib
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

NUMPY_NAMES = {
    "avx2": "AVX2",
    "avx512f": "AVX512F",
    "avx512_vnni": "AVX512VNNI",
    "avx_vnni": "",
    "amx_int8": "",
    "avx512_fp16": "AVX512FP16",
    "asimddp": "ASIMDDP",
    "i8mm": "",
    "sve": "SVE",
}
"""Instruction sets that select integer kernels, by their Linux name, with NumPy's name where it has one."""
INSTRUCTION_SETS = tuple(NUMPY_NAMES)
APPLE_NAMES = {"asimddp": "hw.optional.arm.FEAT_DotProd", "i8mm": "hw.optional.arm.FEAT_I8MM"}
"""Their names in macOS's sysctl."""
CPU_KEY = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
"""Where the Windows registry describes the first core."""


@dataclass(frozen=True)
class Machine:
    """CPU with its relevant instruction sets, and software versions."""

    cpu: str
    cores: int
    instructions: list[str]
    system: str
    python: str
    onnxruntime: str


def this_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    """Describe this machine; the CPU's name is the one that it reports.

    Args:
        cpuinfo: the description of the cores on Linux; other systems have no such file.
    """
    import onnxruntime

    if cpuinfo.is_file():
        name, found = _cpu_of_linux(cpuinfo.read_text(encoding="utf-8", errors="replace"))
    elif sys.platform == "darwin":
        name, found = _cpu_of_macos()
    elif sys.platform == "win32":
        name, found = _cpu_of_windows(), _known_to_numpy()
    else:
        name, found = "", _known_to_numpy()
    return Machine(
        name or platform.processor() or platform.machine(),
        available_cores(),
        [each for each in INSTRUCTION_SETS if each in found],
        f"{platform.system()} {platform.machine()}",
        platform.python_version(),
        onnxruntime.__version__,
    )


def is_arm(system: str) -> bool:
    """Whether a machine or a system, such as `Linux aarch64`, is of the ARM architecture."""
    return system.lower().endswith(("aarch64", "arm64"))


def available_cores() -> int:
    """Count the cores that this process may use."""
    if sys.platform != "win32" and hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_of_linux(cpuinfo: str) -> tuple[str, set[str]]:
    """Read the name and the flags of the first core; ARM cores often give two numbers for a name."""
    facts: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    flags = facts.get("flags") or facts.get("Features") or ""
    name = facts.get("model name", "")
    if not name and "CPU part" in facts:
        maker = facts.get("CPU implementer", "unknown")
        name = f"{platform.machine()} implementer {maker} part {facts['CPU part']}"
    return name, set(flags.split())


def _cpu_of_macos() -> tuple[str, set[str]]:
    facts: dict[str, str] = {}
    try:
        command = ["sysctl", "machdep.cpu", "hw.optional"]
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        facts = dict(line.partition(": ")[::2] for line in result.stdout.splitlines())
    except OSError:
        pass  # a sandbox without sysctl: NumPy still knows the instruction sets
    known = {name for name, key in APPLE_NAMES.items() if facts.get(key, "").strip() == "1"}
    return facts.get("machdep.cpu.brand_string", "").strip(), known | _known_to_numpy()


def _cpu_of_windows() -> str:
    """Return the name in the registry; `platform.processor` gives family and model numbers only."""
    try:
        registry = importlib.import_module("winreg")
        with registry.OpenKey(registry.HKEY_LOCAL_MACHINE, CPU_KEY) as key:
            return str(registry.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    except (ImportError, OSError):
        return ""


def _known_to_numpy() -> set[str]:
    """Return the instruction sets that NumPy found with CPUID, on every system."""
    for module in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):  # NumPy 2, NumPy 1
        try:
            features = importlib.import_module(module).__cpu_features__
        except (ImportError, AttributeError):
            continue
        return {name for name, known in NUMPY_NAMES.items() if features.get(known)}
    return set()
