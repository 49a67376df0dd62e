"""What a classifier loses, over all labelled samples there are: calibrated on some, scored on the others, in turn.

    python benchmarks/folds.py MODEL DATA --labels FILE --preprocess FILE [--folds 5] [--calibrate 2] [-- OPTIONS OF onnxq quantize]

A few hundred samples do not resolve tenths of a point: one image of 300 is a third of one. Here the samples are dealt into
folds; each run calibrates on some of them and scores on the rest, so that every sample is scored by several int8 models that
never saw it. `lost` and `won` are the samples that only float, or only int8, puts right; the interval is that of lost - won if
each run's changes were independent (of the samples and of each other, which they are not quite).
"""

import argparse
import csv
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from corpus_cases import divided

from onnxq.evaluation.evaluate import EvalOptions, evaluate


class Fold(NamedTuple):
    """One run: samples scored, those that only float and only int8 put right, dB, and the share of decisions that are float's."""

    samples: int
    lost: int
    won: int
    sqnr_db: float
    agreement: float


def scored(args: argparse.Namespace, names: list[str], calibrated: list[str], options: list[str]) -> Fold:
    model, data, preprocess = args.model, args.data, args.preprocess
    with tempfile.TemporaryDirectory() as scratch:
        folders = {"calib": calibrated, "eval": [name for name in names if name not in calibrated]}
        for folder, chosen in folders.items():
            (Path(scratch) / folder).mkdir()
            for name in chosen:
                (Path(scratch) / folder / name).symlink_to((data / name).resolve())
        output = Path(scratch) / "int8.onnx"
        command = [
            sys.executable,
            "-m",
            "onnxq",
            "quantize",
            str(model),
            "--calib",
            f"{scratch}/calib",
            "--preprocess",
            preprocess,
        ]
        subprocess.run([*command, "-o", str(output), "-q", *options], check=True, capture_output=True)
        report = evaluate(
            model,
            [output],
            Path(scratch) / "eval",
            EvalOptions(
                labels=part(args.labels, folders["eval"], scratch), preprocess=preprocess, latency=False
            ),
        )
    other = report.scores[1]
    lost = sum(change.count for change in other.changed if change.label == change.float_class)
    won = sum(change.count for change in other.changed if change.label == change.other_class)
    return Fold(report.samples, lost, won, other.sqnr_db or 0.0, other.agreement or 0.0)


def part(labels: Path, names: list[str], scratch: str) -> Path:
    """The labels of some samples."""
    path = Path(scratch) / "labels.csv"
    with open(labels, newline="") as file, open(path, "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["file", "label"])
        writer.writerows(
            [row["file"], row["label"]] for row in csv.DictReader(file) if row["file"] in set(names)
        )
    return path


def main() -> None:
    own, options = divided(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--preprocess", required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--calibrate", type=int, default=2, help="folds to calibrate on")
    args = parser.parse_args(own)
    names = sorted(path.name for path in args.data.iterdir())
    rows = []
    print("| fold | scored | lost | won | SQNR dB | agreement |\n|---|---|---|---|---|---|")
    for fold in range(args.folds):
        taken = {(fold + i) % args.folds for i in range(args.calibrate)}
        calibrated = [name for i, name in enumerate(names) if i % args.folds in taken]
        rows.append(scored(args, names, calibrated, options))
        one = rows[-1]
        print(
            f"| {fold} | {one.samples} | {one.lost} | {one.won} | {one.sqnr_db:.1f} | {one.agreement:.4f} |",
            flush=True,
        )
    samples, lost, won = (
        sum(row.samples for row in rows),
        sum(row.lost for row in rows),
        sum(row.won for row in rows),
    )
    points, spread = 100 * (lost - won) / samples, 100 * math.sqrt(lost + won) / samples
    agreeing = sum(row.agreement * row.samples for row in rows) / samples
    error = math.sqrt(agreeing * (1 - agreeing) / samples)
    print(
        f"drop {points:.2f} +- {spread:.2f} points, agreement {agreeing:.4f} +- {error:.4f} over {samples} scores"
    )


if __name__ == "__main__":
    main()
