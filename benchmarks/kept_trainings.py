"""Train models on few samples, and see on many others whether keeping or dropping the result was right.

    python benchmarks/kept_trainings.py FOLDER ... [--case NAME ...] [--samples 12 24 50] [--draws 2]
                                        [--weight-bits 8] [--steps 1] [--all-int8]

FOLDER is a corpus, a folder of prepared cases or this repository, as for `finetune.py`. Each draw takes that
many of a case's calibration samples at random; the other ones and the evaluation samples, at most 400,
compare both files with float. A row tells what the samples that decide said: the gain of their mean, and that
of a typical sample in standard errors; whether the result is kept; and the gain on the others, all in the
mean over the parts of the outputs. For the numbers of a CPU without VNNI:
`python benchmarks/older_cpu.py python benchmarks/kept_trainings.py FOLDER`.
"""

import argparse
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from finetune import Case, find_cases
from harness import print_header, print_row

import onnxq
from onnxq.comparison.errors import decibels
from onnxq.errors import OnnxqError
from onnxq.finetuning import judge
from onnxq.search.references import OutputNoise

OTHERS = 400
"""Most samples that compare the files."""
COLUMNS = "case", "samples", "decide", "gain dB", "standard errors", "kept", "others", "gain there dB"


@dataclass(frozen=True)
class Training:
    """What the deciding samples said, and what the others say.

    before, after  noise on the samples that decide
    kept           whether the result is kept
    others         number of samples that compare the files
    gain_db        gain on them
    """

    before: OutputNoise
    after: OutputNoise
    kept: bool
    others: int
    gain_db: float


def samples_of(folder: Path) -> list[Path]:
    """Return the files of a folder that are samples, by name."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".csv")


def link(paths: Sequence[Path], folder: Path) -> Path:
    """Fill a new folder with links to files."""
    folder.mkdir()
    for number, path in enumerate(paths):
        (folder / f"{number:04}{path.suffix}").symlink_to(path.resolve())
    return folder


def trained(case: Case, count: int, draw: int, steps: int, options: dict[str, Any]) -> Training:
    """Quantize and train a case on samples drawn at random, and compare both files on the others."""
    rng, given = random.Random(draw), samples_of(case.calib)
    rng.shuffle(given)
    others = given[count:] + samples_of(case.evaluation)
    others = rng.sample(others, min(OTHERS, len(others)))
    noises: list[tuple[OutputNoise, OutputNoise]] = []
    decisions: list[bool] = []

    def verdict(before: OutputNoise, after: OutputNoise) -> tuple[bool, str]:
        noises.append((before, after))
        decisions.append(judge.verdict(before, after)[0])
        return True, "kept in any case, to be compared"

    with tempfile.TemporaryDirectory() as scratch:
        calib, rest = link(given[:count], Path(scratch) / "calib"), link(others, Path(scratch) / "others")
        before, after = Path(scratch) / "before.onnx", Path(scratch) / "after.onnx"
        options = options | {"preprocess": str(case.settings) if case.settings else None, "keep_int8": True}
        bits = options["weight_bits"]
        onnxq.quantize(case.model, calib, before, **options)
        with mock.patch("onnxq.finetuning.finetune.verdict", verdict):
            tuning = onnxq.FinetuneOptions(steps=steps, bits=(bits,))
            onnxq.finetune(case.model, calib, after, tuning=tuning, **options)
        if not noises:
            raise OnnxqError("nothing to train")
        report = onnxq.evaluate(
            case.model, [before, after], rest, preprocess=options["preprocess"], latency=False
        )
    old, new = (
        statistics.fmean(10 ** (-part.sqnr_db / 10) for part in score.parts) for score in report.scores[1:]
    )
    return Training(*noises[0], decisions[0], len(others), decibels(new) - decibels(old))


def row(name: str, count: int, found: Training) -> list[str]:
    """Format a training as a row of the table."""
    gain = decibels(found.after.mean_noise) - decibels(found.before.mean_noise)
    return [
        name,
        str(count),
        str(len(found.before.samples)),
        f"{gain:.2f}",
        f"{judge.typical_gain(found.before, found.after):.1f}",
        "yes" if found.kept else "no",
        str(found.others),
        f"{found.gain_db:.2f}",
    ]


def main() -> None:
    """Print a row for each training and a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="corpus, prepared cases, or this repository")
    parser.add_argument("--case", nargs="*", help="only these cases")
    parser.add_argument("--samples", type=int, nargs="+", default=[12, 24, 50], help="samples of a training")
    parser.add_argument("--draws", type=int, default=2, help="trainings of a case with so many samples")
    parser.add_argument("--weight-bits", type=int, default=8, help="bits of the weights")
    parser.add_argument("--steps", type=int, default=1, help="training steps behind the reconstruction")
    parser.add_argument("--all-int8", action="store_true", help="leave no node in float for accuracy")
    args = parser.parse_args()
    options = {"weight_bits": args.weight_bits, "without": ("fallback",) if args.all_int8 else ()}
    cases = [case for folder in args.folders for case in find_cases(folder.resolve())]
    kept: dict[bool, list[float]] = {True: [], False: []}
    print_header(COLUMNS)
    for case in cases:
        if args.case and case.name not in args.case:
            continue
        for count in args.samples:
            for draw in range(args.draws):
                try:
                    found = trained(case, count, draw, args.steps, options)
                except OnnxqError as error:
                    print_row([case.name, count, str(error)[:100], *[""] * (len(COLUMNS) - 3)])
                    continue
                print_row(row(case.name, count, found))
                kept[found.kept].append(found.gain_db)
    for decision, gains in kept.items():
        if gains:
            print(
                f"\n{'kept' if decision else 'dropped'}: {len(gains)}, gain on other samples "
                f"{min(gains):.2f} to {max(gains):.2f} dB, mean {statistics.fmean(gains):.2f} dB"
            )


if __name__ == "__main__":
    main()
