"""Cost of quantizing with an earlier version and with this one: time, memory and accuracy of each.

    python benchmarks/versions.py CHECKOUT FOLDER [--only NAME ...] [--samples 200] [--rounds 1]
                                  [--most-seconds 1800] [--record FILE] [-- OPTIONS OF onnxq quantize]

CHECKOUT holds the earlier version's source (`git worktree add CHECKOUT COMMIT`); both run in this
environment, in turns. FOLDER holds the cases: folders with model.onnx, calib/ and eval/ and, if samples need
preparing, case.toml; those of a corpus, or those that `wild.py --keep` and `export_models.py` make. Each cell
has the earlier version first. R is the wall time of the command in units of plain inference over the samples
that calibrate. A command that takes longer than --most-seconds is ended, and its time counts as that.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus_cases import divided
from harness import (
    case_settings,
    inference_seconds,
    model_folders,
    print_header,
    print_row,
    quantize_command,
    run_measured,
)

from onnxq.data.preprocessing import read_forms
from onnxq.data.samples import check_feeds, open_samples, spread
from onnxq.runtime.sessions import input_specs, open_session

COLUMNS = ("case", "seconds", "ratio", "CPU s", "CPU ratio", "R", "peak MB", "SQNR dB", "int MACs")
SLOWEST = 5


@dataclass(frozen=True)
class Cost:
    """What quantizing cost, and the file's SQNR and share of integer operations where there is one."""

    seconds: float
    cpu_s: float
    peak_mb: float
    sqnr_db: float | None = None
    integer_macs: float | None = None


def bare_seconds(folder: Path, samples: int) -> float:
    """Time plain inference over the samples that calibrate, default threads; the median of three runs."""
    session = open_session(folder / "model.onnx")
    specs = input_specs(session)
    forms = read_forms(case_settings(folder))
    feeds = [check_feeds(s, specs) for s in spread(open_samples(folder / "calib", specs, forms), samples)]
    return inference_seconds(session, feeds)


def evaluated_db(folder: Path, output: Path) -> float | None:
    """Return the SQNR of a file on the case's evaluation samples by this version, None without any."""
    data = folder / "eval"
    if not data.is_dir() or not any(data.iterdir()):
        return None
    command = [sys.executable, "-m", "onnxq", "eval", str(folder / "model.onnx"), str(output)]
    command += ["--data", str(data), "--no-latency", "--json", "-q"]
    settings = case_settings(folder)
    command += ["--preprocess", str(settings)] if settings is not None else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["scores"][1]["sqnr_db"])


def cost(checkout: Path | None, folder: Path, options: list[str], rounds: int, most_seconds: float) -> Cost:
    """Quantize a case with the version of a checkout, or with this one; medians of several rounds."""
    paths = [str(checkout.resolve()) if checkout is not None else "", os.environ.get("PYTHONPATH", "")]
    source = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}  # older_cpu.py sets one, too
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "model.int8.onnx"
        command = quantize_command(
            folder / "model.onnx",
            folder / "calib",
            output,
            "--force",
            "--json",
            *options,
            preprocess=case_settings(folder),
        )
        limited = ["timeout", "--signal=KILL", str(most_seconds), *command]
        runs = [run_measured(limited, os.environ | source) for _ in range(rounds)]
        numbers = [statistics.median(values) for values in zip(*(run[1:] for run in runs), strict=True)]
        last = runs[-1].process
        if not output.exists():
            print(f"{folder.name}: {(last.stderr.strip().splitlines() or ['ended'])[-1]}", file=sys.stderr)
            return Cost(*numbers)
        share = json.loads(last.stdout)["kernels"]["model_share"]
        return Cost(*numbers, evaluated_db(folder, output), share)


def pair(values: tuple[float | None, float | None], digits: int) -> str:
    """Format a value of the earlier version and the one of this version."""
    return " -> ".join("-" if value is None else f"{value:.{digits}f}" for value in values)


def row(result: dict[str, Any]) -> list[str]:
    """Format a result as a row of the table."""
    before, now = Cost(**result["before"]), Cost(**result["now"])
    bare = result["bare_s"]
    return [
        result["case"],
        pair((before.seconds, now.seconds), 1),
        f"{now.seconds / before.seconds:.2f}",
        pair((before.cpu_s, now.cpu_s), 1),
        f"{now.cpu_s / before.cpu_s:.2f}",
        pair((before.seconds / bare, now.seconds / bare), 1),
        pair((before.peak_mb, now.peak_mb), 0),
        pair((before.sqnr_db, now.sqnr_db), 1),
        pair((before.integer_macs, now.integer_macs), 2),
    ]


def summary(results: list[dict[str, Any]]) -> list[str]:
    """Summarize the ratios of all cases, and of those that were the slowest before."""
    slowest = sorted(results, key=lambda result: -result["before"]["cpu_s"])[:SLOWEST]
    lines = []
    for name, some in (("all cases", results), (f"the {SLOWEST} slowest before", slowest)):
        ratios = {
            key: statistics.geometric_mean(result["now"][key] / result["before"][key] for result in some)
            for key in ("seconds", "cpu_s", "peak_mb")
        }
        lines.append(
            f"{name}: seconds x {ratios['seconds']:.2f}, CPU x {ratios['cpu_s']:.2f}, "
            f"memory x {ratios['peak_mb']:.2f}"
        )
    return lines


def main() -> None:
    """Print a row for each case and the mean ratios."""
    own, options = divided(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="source of the earlier version")
    parser.add_argument("folder", type=Path, help="folder of the cases")
    parser.add_argument("--only", nargs="*", help="only these cases")
    parser.add_argument("--samples", type=int, default=200, help="samples that calibrate (200)")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each version (1)")
    parser.add_argument("--most-seconds", type=float, default=1800.0, help="limit of a command (1800)")
    parser.add_argument("--record", type=Path, help="write all results to this file")
    args = parser.parse_args(own)
    results: list[dict[str, Any]] = []
    options += ["--samples", str(args.samples)]
    print_header(COLUMNS)
    for folder in model_folders(args.folder, args.only):
        before, now = (
            cost(checkout, folder, options, args.rounds, args.most_seconds)
            for checkout in (args.checkout, None)
        )
        bare = bare_seconds(folder, args.samples)
        results.append({"case": folder.name, "bare_s": bare, "before": vars(before), "now": vars(now)})
        print_row(row(results[-1]))
        if args.record:
            args.record.write_text(json.dumps(results, indent=1) + "\n")
    print("\n" + "\n".join(summary(results)))


if __name__ == "__main__":
    main()
