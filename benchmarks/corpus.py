"""Quantize every case of a corpus with the same options, score each file and time it.

    python benchmarks/corpus.py CORPUS [--case NAME ...] [--runtime FOLDER] [--threads 1]
                                [--record FILE] [-- OPTIONS OF onnxq quantize]

The script prints a table with one row a case: scores, SQNR, share of integer MACs, speed-ups, cost of
quantizing. With --runtime the file is also timed against those of ONNX Runtime's own scripts (static and
dynamic, see runtime_files.py), which are made once and kept in FOLDER. --record writes all results and the
machine as JSON; `compare.py` compares two records. Start it with
`python benchmarks/older_cpu.py python benchmarks/corpus.py ...` for the numbers of a CPU without VNNI.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from corpus_cases import divided, folders, load_cases
from harness import (
    Measurement,
    inference_seconds,
    print_header,
    print_row,
    quantize_command,
    run_measured,
)

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
"""Column heads by key of a record. `x ...` are speed-ups over float and over the runtime's own files."""
TIMED_SAMPLES, TIMED_SECONDS, ROUNDS = 8, 15.0, 7


def bare_seconds(cases: ModuleType, case: Any) -> float:
    """Time bare inference over the calibration samples, default threads; median of three runs."""
    session = cases.open_session(case.model, threads=0)
    feeds = [case.read_sample(path) for path in case.files("calib")][:200]
    return inference_seconds(session, feeds)


def quantized(folder: Path, output: Path, options: list[str]) -> tuple[dict[str, Any], Measurement]:
    """Quantize a case; return the report, and the time and peak memory of the command.

    Raises:
        RuntimeError: The command failed; the message is its last line.
    """
    model, details = folder / "model.onnx", output.with_suffix(".json")
    command = quantize_command(model, folder / "calib", output, *options, preprocess=folder / "case.toml")
    measurement = run_measured(command)
    if measurement.process.returncode:
        raise RuntimeError(measurement.process.stderr.strip().splitlines()[-1])
    # a second run for the report: it times each kernel, which takes a while of its own
    reports = ["--report", str(details), "--report", str(details.with_suffix(".html"))]
    subprocess.run([*command, "--force", *reports], check=True, capture_output=True)
    return json.loads(details.read_text()), measurement


def speedup_ceiling(report: dict[str, Any]) -> float | None:
    """Bound the speed-up of the integer kernels: each node in its faster form, conversions at no cost."""
    if report["latency"] is None:
        return None
    timed = [row for row in report["layers"] if row["planned"] and row["float_ms"] and row["int8_ms"]]
    gain = sum(max(0.0, row["float_ms"] - row["int8_ms"]) for row in timed)
    # the profiler's times of many short kernels add up to more than the latency
    whole = max(report["latency"]["float_ms"], sum(row["float_ms"] or 0.0 for row in report["layers"]))
    return round(whole / (whole - gain), 2)


def runtime_files(case: Any, runtime: Path) -> dict[str, Path]:
    """Return the files of ONNX Runtime's own scripts for a case by key of a record; make missing ones."""
    folder = runtime / case.folder.name
    if not folder.is_dir():
        script = str(Path(__file__).with_name("runtime_files.py"))
        subprocess.run([sys.executable, script, str(case.folder), str(folder)], check=True)
    files = {f"x_{kind}": folder / f"{kind}.onnx" for kind in ("static", "dynamic")}
    return {key: file for key, file in files.items() if file.exists()}


def speedups(case: Any, output: Path, runtime: Path | None, threads: int) -> dict[str, float]:
    """Measure speed-ups over float and over the runtime's own files, timed in turns."""
    others = {"speedup": case.model} | (runtime_files(case, runtime) if runtime is not None else {})
    feeds = [case.read_sample(path) for path in (case.files("eval") or case.files("calib"))[:TIMED_SAMPLES]]
    files = [output, *others.values()]
    rounds = []
    # the address of a session's weights changes its time by up to 5 %: each round opens new sessions
    # in another order
    for turn in range(ROUNDS):
        order = random.Random(turn).sample(range(len(files)), len(files))
        medians = medians_ms([files[i] for i in order], feeds, threads, TIMED_SECONDS / ROUNDS)
        times = dict(zip(order, medians, strict=True))
        rounds.append([times[i] for i in range(len(files))])
    own, *times = (statistics.median(each) for each in zip(*rounds, strict=True))
    return {name: round(ms / own, 3) for name, ms in zip(others, times, strict=True)}


def run_case(
    cases: ModuleType, folder: Path, options: list[str], runtime: Path | None, threads: int
) -> dict[str, Any]:
    """Quantize, score and time one case; the result is its part of the record."""
    case = cases.load(folder)
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "model.int8.onnx"
        try:
            report, measured = quantized(folder, output, options)
        except RuntimeError as error:
            return {"case": case.name, "error": str(error)}
        result: dict[str, Any] = cases.evaluate(case, output)
        if "error" not in result:
            result |= speedups(case, output, runtime, threads)
            result |= {
                "seconds": round(measured.seconds, 2),
                "R": round(measured.seconds / bare_seconds(cases, case), 1),
                "peak_mb": round(measured.peak_mb),
                "integer_macs": round(report["kernels"]["model_share"], 3),
                "ceiling": speedup_ceiling(report),
            }
    return result


def row(result: dict[str, Any]) -> list[str]:
    """Format a result as a row of the table."""
    if "error" in result:
        return [result["case"], result["error"][:100], *[""] * (len(COLUMNS) - 2)]
    return ["-" if result.get(key) is None else str(result[key]) for key in COLUMNS]


def means(results: list[dict[str, Any]]) -> list[str]:
    """Summarize the speed-ups over float, and over the faster of the runtime's two files."""
    over_float = [r["speedup"] for r in results if "speedup" in r]
    over_runtime = [
        min(times) for r in results if (times := [r[key] for key in ("x_static", "x_dynamic") if key in r])
    ]
    lines = []
    for name, values in (("float", over_float), ("the better of the runtime's own files", over_runtime)):
        if values:
            mean = statistics.geometric_mean(values)
            lines.append(f"speed-up over {name}: geometric mean {mean:.2f}x, least {min(values):.2f}x")
    return lines


def main() -> None:
    """Print a row for each case and the mean speed-ups."""
    own, options = divided(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, help="folder of the cases, with cases.py")
    parser.add_argument("--case", nargs="*", help="only these cases")
    parser.add_argument("--runtime", type=Path, help="folder for the files of ONNX Runtime's own scripts")
    parser.add_argument("--threads", type=int, default=1, help="threads of a session that is timed")
    parser.add_argument("--record", type=Path, help="write all results to this file")
    args = parser.parse_args(own)
    cases = load_cases(args.corpus)
    results = []
    print_header(COLUMNS.values())
    for folder in folders(args.corpus, args.case):
        results.append(run_case(cases, folder, options, args.runtime, args.threads))
        print_row(row(results[-1]))
    print("\n" + "\n".join(means(results)))
    if args.record:
        record = {
            "machine": asdict(this_machine()),
            "older_cpu": "older_cpu" in os.environ.get("LD_PRELOAD", ""),
            "options": " ".join(options),
            "cases": results,
        }
        args.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
