"""ARM userland for `arm.py`: Python and the aarch64 wheel of ONNX Runtime, run by qemu's user emulation.

The folder of the environment gets

    sysroot/   arm64 packages of Python and its libraries, downloaded and unpacked, not installed
    site/      aarch64 wheels of onnxruntime and its dependencies, the versions of this Python's
    cpus/NAME/ root of an emulated CPU: links to the sysroot, and a /proc/cpuinfo of that CPU

Packages come from the system's own package sources (apt; no root needed), wheels from the package index that
pip is set up for. Needs Linux with apt-get and dpkg-deb (Debian, Ubuntu), and qemu-aarch64.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

EMULATOR = "qemu-aarch64"
DEBS = ("python3-minimal", "python3", "libstdc++6")
"""Packages that Python and the wheels need; apt adds their dependencies."""
WHEELS = ("onnxruntime", "numpy")
TICK = 1000
"""Nanoseconds of an instruction on the clock that counts them: the profiler counts whole microseconds."""
GLIBCS = range(17, 40)
"""Minor versions of glibc 2 whose wheels (manylinux) are accepted; the sysroot's must be as new."""


@dataclass(frozen=True)
class EmulatedCpu:
    """A CPU that qemu emulates.

    model     qemu's name
    part      "CPU part" of its maker ARM in /proc/cpuinfo
    features  instruction sets in /proc/cpuinfo: the wheel reads them there, and crashes without the file
    ns        rough nanoseconds of an instruction: clock rate and instructions per cycle of the real CPU
    """

    model: str
    part: str
    features: str
    ns: float

    @property
    def cpuinfo(self) -> str:
        """Text of /proc/cpuinfo for one core."""
        lines = {
            "processor": "0",
            "BogoMIPS": "50.00",
            "Features": self.features,
            "CPU implementer": "0x41",
            "CPU architecture": "8",
            "CPU variant": "0x0",
            "CPU part": self.part,
            "CPU revision": "0",
        }
        return "".join(f"{key}\t: {value}\n" for key, value in lines.items())


_OLDEST = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_DOT = f"{_OLDEST} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
CPUS = {
    "neoverse-n1": EmulatedCpu("neoverse-n1", "0xd0c", _DOT, 0.125),
    "cortex-a72": EmulatedCpu("cortex-a72", "0xd08", _OLDEST, 0.4),
    # without SME: qemu 7.2 gives every second column of its products of 8-bit integers wrong
    "max": EmulatedCpu("max,sme=off", "0xd40", f"{_DOT} sve sve2 svei8mm i8mm bf16", 0.125),
}
"""Emulated CPUs by name: with dot products (Graviton 2, Raspberry Pi 5, ...), without (Raspberry Pi 4), and
with nearly all that qemu knows, among it matrix products of 8-bit integers (i8mm: Graviton 3 and 4).
"""
USUAL = ("neoverse-n1", "cortex-a72")
"""CPUs that are emulated unless others are named."""


class MissingToolError(Exception):
    """A program that the environment needs is not installed."""


def check_tools() -> None:
    """Raise a `MissingToolError` that names the first missing program and its package."""
    for program, package in ((EMULATOR, "qemu-user"), ("apt-get", "apt"), ("dpkg-deb", "dpkg")):
        if shutil.which(program) is None:
            raise MissingToolError(f"{program} is not installed: it is in the package {package}")


def prepare(folder: Path) -> None:
    """Set up the environment in a folder unless it is there; print what is downloaded.

    Raises:
        MissingToolError: a program is missing.
    """
    check_tools()
    folder = folder.resolve()
    wheels = [f"{name}=={version(name)}" for name in WHEELS]
    ready = folder / "ready"
    if not ready.exists() or ready.read_text() != " ".join(wheels):
        folder.mkdir(parents=True, exist_ok=True)
        _unpack_packages(folder)
        _install_wheels(folder, wheels)
        ready.write_text(" ".join(wheels))
    for name, cpu in CPUS.items():
        _make_root(folder, name, cpu)


def _unpack_packages(folder: Path) -> None:
    """Download arm64 packages with all dependencies and unpack them into the sysroot."""
    print(f"downloading to {folder}: arm64 packages of {', '.join(DEBS)} and their dependencies", flush=True)
    apt = folder / "apt"
    archives, status = apt / "cache" / "archives", apt / "status"
    for part in (apt / "lists" / "partial", archives / "partial"):
        part.mkdir(parents=True, exist_ok=True)
    status.touch()  # nothing counts as installed, so that every dependency is downloaded
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "",
        "Dir::State": apt,
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": status,
        "Dir::Cache": apt / "cache",
        "Debug::NoLocking": "true",
    }
    command = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in settings.items())]
    # a source without arm64 packages is no fault
    subprocess.run([*command, "update"], check=False, stderr=subprocess.DEVNULL)
    wanted = ["install", "-y", "--download-only", "--no-install-recommends", *DEBS]
    subprocess.run([*command, *wanted], check=True)
    sysroot = folder / "sysroot"
    shutil.rmtree(sysroot, ignore_errors=True)
    sysroot.mkdir()
    for package in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, sysroot], check=True)
    shutil.rmtree(apt)


def _install_wheels(folder: Path, wheels: list[str]) -> None:
    """Unpack the aarch64 wheels for the sysroot's Python."""
    print(f"downloading to {folder}: aarch64 wheels of {', '.join(wheels)}", flush=True)
    site = folder / "site"
    shutil.rmtree(site, ignore_errors=True)
    python = interpreter(folder).name.removeprefix("python")
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in GLIBCS]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-compile", "--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    command += [f"--target={site}", *platforms, "--platform=manylinux2014_aarch64"]
    subprocess.run([*command, *wheels], check=True)


def _make_root(folder: Path, name: str, cpu: EmulatedCpu) -> None:
    """Make the root folder of a CPU."""
    root = folder / "cpus" / name
    shutil.rmtree(root, ignore_errors=True)
    (root / "proc").mkdir(parents=True)
    (root / "proc" / "cpuinfo").write_text(cpu.cpuinfo)
    for part in sorted((folder / "sysroot").iterdir()):
        if part.name != "proc":
            (root / part.name).symlink_to(os.path.relpath(part, root))


def interpreter(folder: Path) -> Path:
    """Return the sysroot's Python interpreter, pythonX.Y."""
    return max((folder.resolve() / "sysroot" / "usr" / "bin").glob("python3.[0-9]*[0-9]"))


def build_clock(folder: Path) -> Path:
    """Compile the plugin for the installed qemu."""
    version = subprocess.run([EMULATOR, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"version (\d+)", version)
    # qemu 9 loads version 2 and later, qemu 8.1 and older version 1 only
    interface = 2 if found is not None and int(found[1]) >= 9 else 1
    library = folder / "arm_clock.so"
    define = [f"-DPLUGIN_VERSION={interface}", f"-DTICK={TICK}u"]
    source = str(Path(__file__).with_name("arm_clock.c"))
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", *define, "-o", library, source], check=True)
    return library


def command(folder: Path, cpu: str, clock: Path | None = None) -> list[str]:
    """Return the command that starts the ARM Python on an emulated CPU.

    Args:
        folder: folder of the environment.
        cpu: name of the CPU.
        clock: plugin of `build_clock`, with which clocks count instructions.
    """
    folder = folder.resolve()
    variables = {
        "PYTHONHOME": folder / "sysroot" / "usr",
        "PYTHONPATH": folder / "site",
        "OMP_NUM_THREADS": 1,
        "OPENBLAS_NUM_THREADS": 1,
    }
    settings = [word for key, value in variables.items() for word in ("-E", f"{key}={value}")]
    root = folder / "cpus" / cpu
    plugin = [] if clock is None else ["-plugin", f"file={clock}"]
    return [
        EMULATOR,
        *plugin,
        "-L",
        str(root),
        "-cpu",
        CPUS[cpu].model,
        *settings,
        str(interpreter(folder)),
        "-B",
    ]
