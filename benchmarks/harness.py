"""Parts that the benchmark scripts share: the onnxq command, its time and memory, and Markdown tables."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnxruntime as ort

PEAK_MEMORY = Path(__file__).with_name("peak_memory.py")


class Measurement(NamedTuple):
    """A finished process, its wall time and CPU time in seconds, and its peak resident memory in MiB."""

    process: subprocess.CompletedProcess[str]
    seconds: float
    cpu_s: float
    peak_mb: float


def quantize_command(
    model: Path,
    calib: Path,
    output: Path,
    *options: str,
    preprocess: Path | str | None = None,
    quiet: bool = True,
) -> list[str]:
    """Build the command line of `onnxq quantize` for this interpreter."""
    command = [sys.executable, "-m", "onnxq", "quantize", str(model), "--calib", str(calib)]
    command += ["--preprocess", str(preprocess)] if preprocess is not None else []
    return [*command, "-o", str(output), *(["-q"] if quiet else []), *options]


def run_measured(command: list[str], environment: Mapping[str, str] | None = None) -> Measurement:
    """Run a command to its end and measure its wall time, CPU time and peak memory.

    `environment` is the whole environment of the command, this process's own by default.
    """
    start = time.perf_counter()
    read, write = os.pipe()
    launcher = [sys.executable, "-S", str(PEAK_MEMORY), str(write), *command]
    process = subprocess.run(
        launcher, capture_output=True, text=True, pass_fds=[write], check=False, env=environment
    )
    seconds = time.perf_counter() - start
    os.close(write)
    with os.fdopen(read) as pipe:
        peak_kb, cpu_s = pipe.read().split() or ("0", "0")
        return Measurement(process, seconds, float(cpu_s), int(peak_kb) / 1024)


def inference_seconds(session: ort.InferenceSession, feeds: Sequence[Mapping[str, Any]]) -> float:
    """Time plain inference over all feeds, after a first run; the median of three passes, seconds."""
    session.run(None, feeds[0])
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for feed in feeds:
            session.run(None, feed)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def model_folders(root: Path, wanted: list[str] | None = None) -> list[Path]:
    """List the folders in `root` that hold a model.onnx, by name, or the wanted ones among them."""
    found = sorted(path.parent for path in root.resolve().glob("*/model.onnx"))
    return [folder for folder in found if not wanted or folder.name in wanted]


def case_settings(folder: Path) -> Path | None:
    """Return a case's preprocessing file, case.toml, if it has one."""
    path = folder / "case.toml"
    return path if path.is_file() else None


def print_row(cells: Iterable[object]) -> None:
    """Print one row of a Markdown table at once."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def print_header(columns: Iterable[object]) -> None:
    """Print the head of a Markdown table and the rule below it."""
    names = list(columns)
    print_row(names)
    print("|" + "---|" * len(names), flush=True)
