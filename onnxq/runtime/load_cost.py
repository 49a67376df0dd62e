"""Load time and memory of one model, measured in a new process: this file is also that process's program."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxq.types import Feeds


def load_cost(path: Path, feeds: "Feeds", threads: int) -> tuple[float | None, int | None]:
    """Measure load time (ms) and memory (bytes) of a session and one inference; None if that fails."""
    import numpy as np

    from onnxq.graph.scratch import ScratchFolder, writing_temporaries
    from onnxq.runtime.npz import npz_bytes

    arrays: dict[str, Any] = {}
    for i, (name, array) in enumerate(feeds.items()):
        arrays |= {f"name{i}": np.array(name), f"value{i}": array}
    with ScratchFolder() as folder:
        stored = folder / "feeds.npz"
        with writing_temporaries():
            stored.write_bytes(npz_bytes(arrays))
        # -P: neither this file's folder nor the current one may stand in for the standard library
        command = [sys.executable, "-P", __file__, str(path), str(stored), str(threads)]
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:  # no more processes or open files
            return None, None
    if result.returncode:
        return None, None
    load_ms, memory = json.loads(result.stdout.strip().splitlines()[-1])
    return float(load_ms), None if memory is None else int(memory)


def peak_memory() -> int | None:
    """Return the most memory (bytes) that this process has had; None where the system does not tell."""
    if sys.platform == "win32":
        return _peak_of_windows()
    try:  # on Linux; `ru_maxrss` starts at the parent's value there
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024  # macOS counts bytes, other systems kB


def _peak_of_windows() -> int | None:
    """Ask Windows for the peak working set of this process (psapi.h, PROCESS_MEMORY_COUNTERS)."""
    import ctypes

    class Counters(ctypes.Structure):
        _fields_ = [
            ("size", ctypes.c_uint32),
            ("page_faults", ctypes.c_uint32),
            ("peak_working_set", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 7),
        ]

    counters = Counters()
    counters.size = ctypes.sizeof(counters)
    try:
        kernel: Any = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        process = ctypes.c_void_p(kernel.GetCurrentProcess())
        known = kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), counters.size)
    except (OSError, AttributeError):
        return None
    return int(counters.peak_working_set) if known else None


def _measure(path: str, stored: str, threads: str) -> None:
    """Print load time (ms) and added memory (bytes) as JSON."""
    import numpy as np
    import onnxruntime as ort

    before = peak_memory()
    with np.load(stored, allow_pickle=False) as file:
        feeds = {str(file[f"name{i}"]): file[f"value{i}"] for i in range(len(file.files) // 2)}
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, int(threads)
    start = time.perf_counter()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    load = time.perf_counter() - start
    session.run(None, feeds)
    after = peak_memory()
    memory = None if before is None or after is None else after - before
    sys.stdout.write(json.dumps([load * 1000, memory]) + "\n")


if __name__ == "__main__":
    _measure(*sys.argv[1:])
