"""Quantize every case of a corpus without and with finetuning, and score both files on evaluation samples.

    python benchmarks/finetuning.py CORPUS [--case NAME ...] [--weight-bits 8] [--record FILE]
                                    [-- OPTIONS OF onnxq finetune]

The table has one row a case: metric of the float model and of both files, SQNR of both, CPU seconds and peak
memory of both commands, and what the training did. The evaluation samples are used for nothing else. For the
numbers of a CPU without VNNI: `python benchmarks/older_cpu.py python benchmarks/finetuning.py ...`.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from corpus_cases import divided, folders, load_cases
from harness import Measurement, print_header, print_row, run_measured

from onnxq.runtime.machine import this_machine

COLUMNS = {
    "case": "case",
    "metric": "metric",
    "fp32": "fp32",
    "plain_score": "quantized",
    "score": "finetuned",
    "plain_sqnr_db": "SQNR dB",
    "sqnr_db": "finetuned dB",
    "gain_db": "gain dB",
    "plain_cpu_seconds": "CPU s",
    "cpu_seconds": "finetuned CPU s",
    "peak_mb": "peak MB",
    "steps": "steps",
    "kept": "kept",
}
"""Column heads by key of a record; `plain` is without finetuning."""
QUANTIZE = """
import sys, onnxq
model, calib, output, preprocess, bits, *flags = sys.argv[1:]
onnxq.quantize(
    model, calib, output, preprocess=preprocess, weight_bits=int(bits),
    skip_slow_nodes="--all-int8" not in flags,
    without=tuple(flags[i + 1] for i, flag in enumerate(flags) if flag == "--without"),
)
"""
"""Program for the file without finetuning; `onnxq quantize` has no option for the bits of a weight."""


def measured(command: list[str]) -> tuple[Measurement, float]:
    """Run a command; return its measurement and its CPU time, seconds.

    Raises:
        RuntimeError: the command failed; the message is its last line.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = run_measured(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if found.process.returncode:
        raise RuntimeError((found.process.stderr.strip().splitlines() or ["failed"])[-1])
    return found, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_case(cases: ModuleType, folder: Path, bits: int, options: list[str]) -> dict[str, Any]:
    """Quantize and finetune one case, and score both files."""
    case = cases.load(folder)
    model, calib, settings = (str(folder / name) for name in ("model.onnx", "calib", "case.toml"))
    with tempfile.TemporaryDirectory() as scratch:
        plain, tuned = Path(scratch) / "plain.onnx", Path(scratch) / "tuned.onnx"
        try:
            _, plain_cpu = measured(
                [sys.executable, "-c", QUANTIZE, model, calib, str(plain), settings, str(bits), *options]
            )
            command = [sys.executable, "-m", "onnxq", "finetune", model, "--calib", calib]
            command += ["--preprocess", settings, "--weight-bits", str(bits), "-o", str(tuned), "--json"]
            run, cpu = measured([*command, *options])
        except RuntimeError as error:
            return {"case": case.name, "error": str(error)}
        tuning = json.loads(run.process.stdout)["finetuning"]
        before, after = cases.evaluate(case, plain), cases.evaluate(case, tuned)
    result: dict[str, Any] = {
        **after,
        "plain_score": before.get("score"),
        "plain_sqnr_db": before.get("sqnr_db"),
        "plain_cpu_seconds": round(plain_cpu, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_mb": round(run.peak_mb),
        "steps": tuning["steps"],
        "kept": "yes" if tuning["kept"] else "no",
        "tuning": tuning,
    }
    if "sqnr_db" in after and "sqnr_db" in before:
        result["gain_db"] = round(after["sqnr_db"] - before["sqnr_db"], 2)
    return result


def row(result: dict[str, Any]) -> list[str]:
    """Format a result as a row of the table."""
    if "error" in result:
        return [result["case"], result["error"][:100], *[""] * (len(COLUMNS) - 2)]
    return ["-" if result.get(key) is None else str(result[key]) for key in COLUMNS]


def main() -> None:
    """Print a row for each case."""
    own, options = divided(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, help="folder of the cases, with cases.py")
    parser.add_argument("--case", nargs="*", help="only these cases")
    parser.add_argument("--weight-bits", type=int, default=8, help="bits of the weights in both files")
    parser.add_argument("--record", type=Path, help="write all results to this file")
    args = parser.parse_args(own)
    cases = load_cases(args.corpus)
    results = []
    print_header(COLUMNS.values())
    for folder in folders(args.corpus, args.case):
        results.append(run_case(cases, folder, args.weight_bits, options))
        print_row(row(results[-1]))
        if args.record:
            record = {
                "machine": asdict(this_machine()),
                "older_cpu": "older_cpu" in os.environ.get("LD_PRELOAD", ""),
                "weight_bits": args.weight_bits,
                "options": " ".join(options),
                "cases": results,
            }
            args.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
