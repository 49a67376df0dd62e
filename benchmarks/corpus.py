"""Quantize every case of a corpus with one command line, score each, and print a table.

    python benchmarks/corpus.py CORPUS [--case NAME ...] [--runtime FOLDER] [--record FILE] [-- OPTIONS OF onnxq quantize]

With --runtime the file is also timed against those that ONNX Runtime's own scripts write (static and dynamic, see
runtime_files.py); they are made once and kept in FOLDER. --record writes all of it as JSON, with the machine it was
measured on; `compare.py` holds two records against one another. Start it with `python benchmarks/older_cpu.py python
benchmarks/corpus.py ...` for the numbers of a CPU without VNNI.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from corpus_cases import divided, folders, load_cases

from onnxq.runtime.latency import medians_ms
from onnxq.runtime.machine import this_machine

COLUMNS = {
    "case": "case",
    "metric": "metric",
    "fp32": "fp32",
    "score": "int8",
    "sqnr_db": "SQNR dB",
    "agree": "agree",
    "integer_macs": "int MACs",
    "size_ratio": "size",
    "speedup": "x float",
    "ceiling": "ceiling",
    "x_static": "x static",
    "x_dynamic": "x dynamic",
    "seconds": "seconds",
    "R": "R",
    "peak_mb": "peak MB",
}
"""Keys of a record with the head of their columns; x: times as fast as float, and as the runtime's own files."""
TIMED_SAMPLES, TIMED_SECONDS, ROUNDS = 8, 15.0, 7
MEASURED = """
import os, sys
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(pid, 0)
print(used.ru_maxrss, file=open(3, "w"))
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Runs a command from a small process: a child's peak memory goes on from its parent's."""


def bare_seconds(cases: ModuleType, case: Any) -> float:
    """Bare inference over the calibration samples with the runtime's default threads; median of three."""
    session = cases.open_session(case.model, threads=0)
    feeds = [case.read_sample(path) for path in case.files("calib")][:200]
    session.run(None, feeds[0])
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for feed in feeds:
            session.run(None, feed)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def quantized(folder: Path, output: Path, options: list[str]) -> tuple[dict[str, Any], float, float]:
    """The report of one command, its seconds and its peak memory in MB."""
    details = output.with_suffix(".json")
    command = [
        sys.executable, "-m", "onnxq", "quantize", str(folder / "model.onnx"), "--calib", str(folder / "calib"),
        "--preprocess", str(folder / "case.toml"), "-o", str(output), "-q", *options,
    ]  # fmt: skip
    start = time.perf_counter()
    read, write = os.pipe()
    helper = [sys.executable, "-S", "-c", f"import os; os.dup2({write}, 3)\n{MEASURED}", *command]
    done = subprocess.run(helper, capture_output=True, text=True, pass_fds=[write])
    seconds = time.perf_counter() - start
    os.close(write)
    with os.fdopen(read) as pipe:
        peak = int(pipe.read() or 0) / 1024
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    # once more for the kernels' times, which take a while of their own
    subprocess.run(
        [*command, "--force", "--report", str(details), "--report", str(details.with_suffix(".html"))],
        check=True,
        capture_output=True,
    )
    return json.loads(details.read_text()), seconds, peak


def ceiling(report: dict[str, Any]) -> float | None:
    """What the integer kernels alone would give: each node in the faster of its two forms, at no cost between them."""
    if report["latency"] is None:
        return None
    timed = [row for row in report["layers"] if row["planned"] and row["float_ms"] and row["int8_ms"]]
    gain = sum(max(0.0, row["float_ms"] - row["int8_ms"]) for row in timed)
    # the profiler's times of many short kernels add up to more than the whole
    whole = max(report["latency"]["float_ms"], sum(row["float_ms"] or 0.0 for row in report["layers"]))
    return round(whole / (whole - gain), 2)


def against(case: Any, output: Path, runtime: Path | None) -> dict[str, float]:
    """Speed-ups over float and over the runtime's own files, timed in turns, one thread."""
    others = {"speedup": case.model}
    if runtime is not None:
        folder = runtime / case.folder.name
        if not folder.is_dir():
            subprocess.run(
                [
                    sys.executable,
                    str(Path(__file__).with_name("runtime_files.py")),
                    str(case.folder),
                    str(folder),
                ],
                check=True,
            )
        others |= {
            f"x_{kind}": folder / f"{kind}.onnx"
            for kind in ("static", "dynamic")
            if (folder / f"{kind}.onnx").exists()
        }
    feeds = [case.read_sample(path) for path in (case.files("eval") or case.files("calib"))[:TIMED_SAMPLES]]
    files = [output, *others.values()]
    rounds = []
    for turn in range(
        ROUNDS
    ):  # where a session's weights happen to lie is worth up to 5 %: new ones, in another order
        order = random.Random(turn).sample(range(len(files)), len(files))
        times = dict(
            zip(order, medians_ms([files[i] for i in order], feeds, 1, TIMED_SECONDS / ROUNDS), strict=True)
        )
        rounds.append([times[i] for i in range(len(files))])
    own, *times = (statistics.median(each) for each in zip(*rounds, strict=True))
    return {name: round(ms / own, 3) for name, ms in zip(others, times, strict=True)}


def run_case(cases: ModuleType, folder: Path, options: list[str], runtime: Path | None) -> dict[str, Any]:
    case = cases.load(folder)
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "model.int8.onnx"
        try:
            report, seconds, peak = quantized(folder, output, options)
        except RuntimeError as error:
            return {"case": case.name, "error": str(error)}
        result: dict[str, Any] = cases.evaluate(case, output)
        if "error" not in result:
            result |= against(case, output, runtime)
            result |= {
                "seconds": round(seconds, 2),
                "R": round(seconds / bare_seconds(cases, case), 1),
                "peak_mb": round(peak),
            }
            result |= {"integer_macs": round(report["kernels"]["model_share"], 3), "ceiling": ceiling(report)}
    return result


def row(result: dict[str, Any]) -> list[str]:
    if "error" in result:
        return [result["case"], result["error"][:100], *[""] * (len(COLUMNS) - 2)]
    return ["-" if result.get(key) is None else str(result[key]) for key in COLUMNS]


def means(results: list[dict[str, Any]]) -> list[str]:
    """Geometric means of the speed-ups, and over the better of the runtime's two files."""
    lines = []
    speedups = [r["speedup"] for r in results if "speedup" in r]
    better = [
        min(times) for r in results if (times := [r[key] for key in ("x_static", "x_dynamic") if key in r])
    ]
    for name, values in (("float", speedups), ("the better of the runtime's own files", better)):
        if values:
            lines.append(
                f"speed-up over {name}: geometric mean {statistics.geometric_mean(values):.2f}x, least {min(values):.2f}x"
            )
    return lines


def main() -> None:
    own, options = divided(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--case", nargs="*", help="only these cases")
    parser.add_argument("--runtime", type=Path, help="folder for the files of ONNX Runtime's own scripts")
    parser.add_argument("--record", type=Path, help="write all results to this file")
    args = parser.parse_args(own)
    cases = load_cases(args.corpus)
    results = []
    print("| " + " | ".join(COLUMNS.values()) + " |\n|" + "---|" * len(COLUMNS))
    for folder in folders(args.corpus, args.case):
        result = run_case(cases, folder, options, args.runtime)
        results.append(result)
        print("| " + " | ".join(row(result)) + " |", flush=True)
    print("\n" + "\n".join(means(results)))
    if args.record:
        older = "older_cpu" in os.environ.get("LD_PRELOAD", "")
        record = {
            "machine": asdict(this_machine()),
            "older_cpu": older,
            "options": " ".join(options),
            "cases": results,
        }
        args.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
