"""Quantize models without and with finetuning, and compare both files with float on evaluation samples.

    python benchmarks/finetune.py FOLDER ... [--case NAME ...] [--weight-bits 8] [--report-only]
                                  [--record FILE] [-- OPTIONS OF onnxq finetune]

FOLDER is a corpus (cases.py beside the cases), a folder of prepared cases (each with model.onnx, calib/ and
eval/, as `wild.py --keep` and `export_models.py` make them), or the root of this repository for the sample
models. One row a case: metric and SQNR of both files, the SQNR that the report of the finetuned file claims
for its outputs, CPU seconds of both commands, peak memory, and what the training did. The evaluation samples
are used for nothing else. With `--report-only` each model is finetuned alone, and both SQNRs are those of its
report, on samples that decided nothing: that tells at a third of the time which graphs can be trained.
For the numbers of a CPU without VNNI: `python benchmarks/older_cpu.py python benchmarks/finetune.py ...`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from corpus_cases import divided, load_cases
from harness import Measurement, case_settings, model_folders, print_header, print_row, run_measured

from onnxq.runtime.machine import this_machine

COLUMNS = {
    "case": "case",
    "plain_db": "quantized dB",
    "db": "finetuned dB",
    "gain_db": "gain dB",
    "claimed_db": "claimed dB",
    "fp32": "float",
    "plain_score": "quantized",
    "score": "finetuned",
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
def given(flag, default):
    return flags[flags.index(flag) + 1] if flag in flags else default


onnxq.quantize(
    model, calib, output, preprocess=preprocess or None, mode=given("--mode", "static"),
    weight_bits=int(bits), samples=int(given("--samples", 200)),
    keep_int8="--keep-int8" in flags,
    skip_slow_nodes="--all-int8" not in flags,
    without=tuple(flags[i + 1] for i, flag in enumerate(flags) if flag == "--without"),
)
"""
"""Program for the file without finetuning; `onnxq quantize` has no option for the bits of a weight."""


@dataclass(frozen=True)
class Case:
    """A model with its samples.

    corpus    folder with the cases.py that scores it; None for SQNR alone
    labels    labels of the evaluation samples; None without
    """

    name: str
    model: Path
    calib: Path
    evaluation: Path
    settings: Path | None = None
    corpus: Path | None = None
    labels: Path | None = None


def find_cases(root: Path) -> Iterator[Case]:
    """Yield the cases of a folder."""
    if (root / "sample_models").is_dir():
        data = root / "calib_data"
        for model in sorted((root / "sample_models").glob("*.onnx")):
            yield Case(model.stem, model, data / "calib", data / "eval", labels=data / "eval" / "labels.csv")
        return
    corpus = root if (root / "cases.py").is_file() else None
    for folder in model_folders(root):
        model, settings = folder / "model.onnx", case_settings(folder)
        yield Case(folder.name, model, folder / "calib", folder / "eval", settings, corpus)


def measured(command: list[str]) -> Measurement:
    """Run a command and measure it.

    Raises:
        RuntimeError: the command failed; the message is its last line.
    """
    found = run_measured(command)
    if found.process.returncode:
        raise RuntimeError((found.process.stderr.strip().splitlines() or ["failed"])[-1])
    return found


def evaluated(case: Case, files: list[Path]) -> list[dict[str, Any]]:
    """Score files on the evaluation samples: by the corpus's own cases.py, otherwise by `onnxq eval`."""
    if case.corpus is not None:
        cases = load_cases(case.corpus)
        loaded = cases.load(case.model.parent)
        found = [cases.evaluate(loaded, file) for file in files]
        return [
            {"fp32": each["fp32"], "score": each.get("score"), "db": each.get("sqnr_db")} for each in found
        ]
    command = [sys.executable, "-m", "onnxq", "eval", str(case.model), *map(str, files)]
    command += ["--data", str(case.evaluation), "--no-latency", "--json", "-q"]
    command += ["--labels", str(case.labels)] if case.labels is not None else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    float_, *scores = json.loads(done.stdout)["scores"]
    metric = next(iter(float_["metrics"]), None)
    return [
        {
            "fp32": float_["metrics"][metric]["value"] if metric else None,
            "score": each["metrics"][metric]["value"] if metric else None,
            "db": None if each["sqnr_db"] is None else round(each["sqnr_db"], 2),
        }
        for each in scores
    ]


def reported(tuning: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the SQNR before and after on the samples that decided nothing, if there was a training."""
    values = [tuning.get(key) for key in ("before_db", "after_db")]
    return [{"db": None if each is None else round(each, 2)} for each in values]


def run_case(case: Case, bits: int, options: list[str], *, report_only: bool) -> dict[str, Any]:
    """Quantize and finetune one case, and score both files unless the report is enough."""
    settings = str(case.settings or "")
    with tempfile.TemporaryDirectory() as scratch:
        plain, tuned = Path(scratch) / "plain.onnx", Path(scratch) / "tuned.onnx"
        quantize = [sys.executable, "-c", QUANTIZE, str(case.model), str(case.calib), str(plain), settings]
        finetune = [sys.executable, "-m", "onnxq", "finetune", str(case.model), "--calib", str(case.calib)]
        finetune += ["--preprocess", settings] if settings else []
        finetune += [] if "--mode" in options else ["--weight-bits", str(bits)]
        finetune += ["-o", str(tuned), "--json", *options]
        try:
            untrained = None if report_only else measured([*quantize, str(bits), *options])
            run = measured(finetune)
        except RuntimeError as error:
            return {"case": case.name, "error": str(error)}
        report = json.loads(run.process.stdout)
        tuning = report["finetuning"] or {}
        before, after = reported(tuning) if report_only else evaluated(case, [plain, tuned])
    outputs = report["outputs"] or {}
    result: dict[str, Any] = {
        "case": case.name,
        **after,
        "plain_db": before["db"],
        "plain_score": before.get("score"),
        "claimed_db": None if outputs.get("bound_db") is None else round(outputs["bound_db"], 1),
        "plain_cpu_seconds": None if untrained is None else round(untrained.cpu_s, 1),
        "cpu_seconds": round(run.cpu_s, 1),
        "peak_mb": round(run.peak_mb),
        "steps": tuning.get("steps"),
        "kept": "yes" if tuning.get("kept") else "no",
        "tuning": tuning,
    }
    if after["db"] is not None and before["db"] is not None:
        result["gain_db"] = round(after["db"] - before["db"], 2)
    return result


def row(result: dict[str, Any]) -> list[str]:
    """Format a result as a row of the table."""
    if "error" in result:
        return [result["case"], result["error"][:150], *[""] * (len(COLUMNS) - 2)]
    return ["-" if result.get(key) is None else str(result[key]) for key in COLUMNS]


def main() -> None:
    """Print a row for each case."""
    own, options = divided(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="corpus, prepared cases, or this repository")
    parser.add_argument("--case", nargs="*", help="only these cases")
    parser.add_argument("--weight-bits", type=int, default=8, help="bits of the weights in both files")
    parser.add_argument("--report-only", action="store_true", help="finetune alone; SQNRs of the report")
    parser.add_argument("--record", type=Path, help="write all results to this file")
    args = parser.parse_args(own)
    found = [case for folder in args.folders for case in find_cases(folder.resolve())]
    results = []
    print_header(COLUMNS.values())
    for case in found:
        if args.case and case.name not in args.case:
            continue
        results.append(run_case(case, args.weight_bits, options, report_only=args.report_only))
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
