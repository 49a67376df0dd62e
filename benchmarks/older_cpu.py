"""Run a command as on an x86 CPU with AVX2 but without AVX-512, VNNI and AMX.

    python benchmarks/older_cpu.py onnxq eval model.onnx model.int8.onnx --data eval/
    OLDER_CPU=avx512 python benchmarks/older_cpu.py ...

With OLDER_CPU=avx512 the CPU keeps AVX-512 and lacks VNNI and AMX alone, as the first Xeons with AVX-512.

A correct file on a VNNI machine can be wrong on an older one, where the U8S8 kernels add two products in
saturating int16. This script shows it without an older machine. It copies ONNX Runtime and replaces each
`cpuid` instruction by `ud2`; a preloaded signal handler then answers in its place, without the bits of the
newer instructions. The runtime picks its AVX2 kernels, which run natively, so results and speed are those of
this CPU without VNNI. Needs Linux, gcc and objdump.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path


def overlay() -> Path:
    """Return the folder with the patched onnxruntime package and the preloaded library.

    It is made once for each version of the package.
    """
    spec = find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise SystemExit("onnxruntime is not installed in this environment")
    package = Path(spec.origin).parent
    (library,) = package.glob("capi/onnxruntime_pybind11_state*.so")
    source = Path(__file__).with_suffix(".c")
    versions = library.stat().st_size, library.stat().st_mtime_ns, source.stat().st_mtime_ns
    stamp = "-".join(map(str, (*versions, sys.version_info[1])))
    folder = Path(tempfile.gettempdir()) / f"older-cpu-{os.getuid()}-{stamp}"
    if folder.exists():
        return folder
    building = Path(tempfile.mkdtemp(dir=folder.parent))
    shutil.copytree(package, building / "onnxruntime", ignore=shutil.ignore_patterns("__pycache__"))
    patch(building / "onnxruntime" / "capi" / library.name)
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", building / "older_cpu.so", source], check=True)
    building.rename(folder)
    return folder


def patch(library: Path) -> None:
    """Replace every cpuid (0F A2) in the disassembly of .text by ud2 (0F 0B)."""
    text, sections = (
        subprocess.run(["objdump", *options, library], check=True, capture_output=True, text=True).stdout
        for options in (("-d", "--no-show-raw-insn"), ("-h", "-w"))
    )
    found = re.search(r"\.text\s+\S+\s+(\S+)\s+\S+\s+(\S+)", sections)
    if found is None:
        raise SystemExit(f"{library}: no .text section")
    address, offset = (int(value, 16) for value in found.groups())
    code = bytearray(library.read_bytes())
    for match in re.finditer(r"^\s*([0-9a-f]+):\tcpuid", text, re.MULTILINE):
        at = int(match[1], 16) - address + offset
        if code[at : at + 2] != b"\x0f\xa2":
            raise SystemExit(f"{library}: no cpuid at {at:#x}")
        code[at + 1] = 0x0B
    library.write_bytes(code)


def main() -> None:
    """Replace this process by the command, with the patched runtime first on the path."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    if sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return
    folder = overlay()
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "LD_PRELOAD": str(folder / "older_cpu.so"),
    }
    os.execvpe(sys.argv[1], sys.argv[1:], environment)


if __name__ == "__main__":
    main()
