"""Measure a classifier's accuracy drop over all labelled samples by cross-validation.

    python benchmarks/folds.py MODEL DATA --labels FILE --preprocess FILE [--folds 5] [--calibrate 2]
                               [-- OPTIONS OF onnxq quantize]

A few hundred samples do not resolve tenths of a percentage point: one image of 300 is a third of a point.
Here the samples are dealt into folds. Each run calibrates on --calibrate of them and scores the others, so
each sample is scored by several int8 models that never saw it. The table counts per fold the samples that
only float classifies correctly (`lost`) and those that only int8 does (`won`). The last line gives the drop
in percentage points with its standard error, which assumes independent changes in all runs (they are not
quite independent).
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
from harness import print_header, print_row, quantize_command

from onnxq.evaluation.evaluate import EvalOptions, evaluate


class Fold(NamedTuple):
    """One run.

    samples    number of scored samples
    lost       samples that only float classifies correctly
    won        samples that only int8 classifies correctly
    sqnr_db    SQNR in dB
    agreement  share of decisions that are the same as float's
    """

    samples: int
    lost: int
    won: int
    sqnr_db: float
    agreement: float


def run_fold(args: argparse.Namespace, names: list[str], calibrated: list[str], options: list[str]) -> Fold:
    """Calibrate on some samples and score the int8 file on all others."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        parts = {"calib": calibrated, "eval": [name for name in names if name not in calibrated]}
        for part, chosen in parts.items():
            (scratch / part).mkdir()
            for name in chosen:
                (scratch / part / name).symlink_to((args.data / name).resolve())
        output = scratch / "int8.onnx"
        command = quantize_command(
            args.model, scratch / "calib", output, *options, preprocess=args.preprocess
        )
        subprocess.run(command, check=True, capture_output=True)
        write_labels(args.labels, parts["eval"], scratch / "labels.csv")
        settings = EvalOptions(labels=scratch / "labels.csv", preprocess=args.preprocess, latency=False)
        report = evaluate(args.model, [output], scratch / "eval", settings)
    other = report.scores[1]
    lost = sum(change.count for change in other.changed if change.label == change.float_class)
    won = sum(change.count for change in other.changed if change.label == change.other_class)
    return Fold(report.samples, lost, won, other.sqnr_db or 0.0, other.agreement or 0.0)


def write_labels(labels: Path, names: list[str], target: Path) -> None:
    """Write the labels of some samples."""
    wanted = set(names)
    with open(labels, newline="") as file, open(target, "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["file", "label"])
        writer.writerows([row["file"], row["label"]] for row in csv.DictReader(file) if row["file"] in wanted)


def summary(folds: list[Fold]) -> str:
    """Format the drop and the agreement over all folds, each with its standard error."""
    samples, lost, won = (sum(getattr(fold, key) for fold in folds) for key in ("samples", "lost", "won"))
    drop, drop_error = 100 * (lost - won) / samples, 100 * math.sqrt(lost + won) / samples
    agreement = sum(fold.agreement * fold.samples for fold in folds) / samples
    error = math.sqrt(agreement * (1 - agreement) / samples)
    return (
        f"drop {drop:.2f} +- {drop_error:.2f} points, agreement {agreement:.4f} +- {error:.4f} "
        f"over {samples} scores"
    )


def main() -> None:
    """Print a row for each fold and the summary."""
    own, options = divided(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="folder of the samples")
    parser.add_argument("--labels", type=Path, required=True, help="CSV with the columns file and label")
    parser.add_argument("--preprocess", required=True, help="preset or file")
    parser.add_argument("--folds", type=int, default=5, help="number of folds")
    parser.add_argument("--calibrate", type=int, default=2, help="folds to calibrate on")
    args = parser.parse_args(own)
    names = sorted(path.name for path in args.data.iterdir())
    folds: list[Fold] = []
    print_header(["fold", "scored", "lost", "won", "SQNR dB", "agreement"])
    for number in range(args.folds):
        taken = {(number + i) % args.folds for i in range(args.calibrate)}
        calibrated = [name for i, name in enumerate(names) if i % args.folds in taken]
        folds.append(run_fold(args, names, calibrated, options))
        fold = folds[-1]
        scores = (f"{fold.sqnr_db:.1f}", f"{fold.agreement:.4f}")
        print_row([number, fold.samples, fold.lost, fold.won, *scores])
    print(summary(folds))


if __name__ == "__main__":
    main()
