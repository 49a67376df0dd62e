"""Quantize every case of a corpus with one command line, score each, and print a table.

    python benchmarks/corpus.py CORPUS [--case NAME ...] [--json FILE] [-- OPTIONS OF onnxq quantize]

A case is a folder with model.onnx, calib/, eval/ and case.toml; CORPUS/cases.py loads and scores it.
Start it with `python benchmarks/older_cpu.py python benchmarks/corpus.py ...` for the numbers of a
CPU without VNNI.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

COLUMNS = ("case", "metric", "fp32", "int8", "SQNR dB", "agree", "int MACs", "size", "latency", "seconds", "R")


def load_cases(corpus: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("cases", corpus / "cases.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cases"] = module
    spec.loader.exec_module(module)
    return module


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


def run_case(cases: ModuleType, folder: Path, options: list[str]) -> dict[str, Any]:
    case = cases.load(folder)
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "model.int8.onnx"
        command = [
            sys.executable, "-m", "onnxq", "quantize", str(case.model), "--calib", str(folder / "calib"),
            "--preprocess", str(folder / "case.toml"), "-o", str(output), "--json", *options,
        ]  # fmt: skip
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode != 0:
            return {"case": case.name, "error": done.stderr.strip().splitlines()[-1]}
        report = json.loads(done.stdout)
        result: dict[str, Any] = cases.evaluate(case, output)
    if "error" not in result:
        result |= {"seconds": round(seconds, 2), "R": round(seconds / bare_seconds(cases, case), 1)}
        result["integer_macs"] = round(report["kernels"]["model_share"], 4)
    return result | {"report": report}


def row(result: dict[str, Any]) -> list[str]:
    if "error" in result:
        return [result["case"], result["error"][:100], *[""] * (len(COLUMNS) - 2)]
    keys = ("case", "metric", "fp32", "score", "sqnr_db", "agree", "integer_macs", "size_ratio", "latency_ratio", "seconds", "R")
    return ["-" if result.get(key) is None else str(result[key]) for key in keys]


def main() -> None:
    own, _, options = " ".join(sys.argv[1:]).partition(" -- ")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--case", nargs="*", help="only these cases")
    parser.add_argument("--json", type=Path, help="write all results to this file")
    args = parser.parse_args(own.split())
    cases = load_cases(args.corpus)
    folders = sorted(path.parent for path in args.corpus.glob("*/case.toml"))
    results = []
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for folder in folders:
        if args.case and folder.name not in args.case:
            continue
        result = run_case(cases, folder, options.split())
        results.append(result)
        print("| " + " | ".join(row(result)) + " |", flush=True)
    ratios = [r["latency_ratio"] for r in results if "latency_ratio" in r]
    if ratios:
        print(f"\nspeed-up over float, geometric mean: {statistics.geometric_mean([1 / r for r in ratios]):.2f}x")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
