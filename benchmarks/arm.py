"""Run quantized files in ONNX Runtime for ARM, emulated, and compare their outputs with x86's.

    python benchmarks/arm.py files MODEL FILE ... --data FOLDER [--preprocess TOML]
    python benchmarks/arm.py corpus CORPUS [--case NAME ...] [--target NAME ...] [--files FOLDER]
                             [-- OPTIONS OF onnxq quantize]

`files` takes a float model and quantized files of it. `corpus` quantizes every case with each target;
FOLDER keeps the files, CASE.TARGET.onnx, and those already there are not made again. Each file runs on this
machine and on two emulated CPUs: neoverse-n1 has dot products, cortex-a72 has none. `--cpu max`, no real
CPU, has matrix products of 8-bit integers (i8mm), too. The table gives, for each: the SQNR in dB against
the float model on this machine, the share of its decisions that stay, and the SQNR against the same file on
this machine, which tells how alike the values are. The time of emulation says nothing about speed;
--instructions counts those of the emulated CPU, the float model's divided by the file's.

The first run downloads about 90 MB of packages and wheels into the folder of --environment (build/arm); see
arm_environment.py. It needs Linux with apt, and qemu-aarch64 (Debian and Ubuntu: apt-get install qemu-user).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from arm_environment import CPUS, TICK, USUAL, MissingToolError, build_clock, command, prepare
from corpus_cases import divided
from harness import case_settings, model_folders, print_header, print_row, quantize_command
from sample_sqnr import sqnr_db

from onnxq.comparison.decisions import Decisions
from onnxq.comparison.taps import find_taps
from onnxq.data.preprocessing import read_forms
from onnxq.data.samples import check_feeds, open_samples, spread
from onnxq.graph.files import load
from onnxq.normalize.passes import normalize
from onnxq.runtime.machine import this_machine
from onnxq.runtime.sessions import model_inputs, open_session
from onnxq.types import Array, Feeds

ENVIRONMENT = Path("build/arm")
RUNNER = Path(__file__).with_name("arm_runner.py")
NATIVE = "this machine"
MOST_SECONDS = 1800
"""Longest run of one file on one emulated CPU."""
COUNTED = 2
"""Samples of the float model whose instructions are counted; the shorter run counts."""
COLUMNS = {
    "case": "case",
    "file": "file",
    "cpu": "CPU",
    "sqnr_db": "SQNR dB",
    "decisions": "same decisions",
    "alike_db": "dB to x86",
    "fewer": "float / file instructions",
}
Outputs = list[list[Array]]


@dataclass(frozen=True)
class Result:
    """A file on one CPU.

    sqnr_db    SQNR against the float model on this machine, dB
    decisions  share of the float model's decisions that stay, 0..1; None for a model without any
    alike_db   SQNR against the same file on this machine, dB
    fewer      instructions of the float model / those of the file, for one run; None where not counted
    error      last line of the error, where the file did not run
    """

    case: str
    file: str
    cpu: str
    sqnr_db: float | None = None
    decisions: float | None = None
    alike_db: float | None = None
    fewer: float | None = None
    error: str = ""


class EmulationError(Exception):
    """The emulated runtime failed; the message is its last line."""


@dataclass(frozen=True)
class Emulator:
    """An emulated CPU: folder of the environment, name, and the plugin that counts instructions if wanted."""

    environment: Path
    cpu: str
    clock: Path | None = None


def emulated(emulator: Emulator, model: Path, feeds: Sequence[Feeds]) -> tuple[Outputs, float]:
    """Run a model file on an emulated CPU; return its outputs, and the instructions of the shortest run.

    Raises:
        EmulationError: the runtime failed or took longer than MOST_SECONDS.
    """
    with tempfile.TemporaryDirectory() as scratch:
        given, found = Path(scratch) / "feeds.npz", Path(scratch) / "outputs.npz"
        arrays = {f"{i}:{name}": array for i, feed in enumerate(feeds) for name, array in feed.items()}
        np.savez(given, **arrays)
        arguments = [str(each) for each in (RUNNER, model.resolve(), given, found)]
        try:
            done = subprocess.run(
                [*command(emulator.environment, emulator.cpu, emulator.clock), *arguments],
                check=False, capture_output=True, text=True, timeout=MOST_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise EmulationError(f"not done after {MOST_SECONDS} s") from error
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise EmulationError(lines[-1])
        with np.load(found) as stored:
            outputs: Outputs = [[] for _ in feeds]
            instructions = float(stored["nanoseconds"]) / TICK
            for key in stored.files:  # in the order of the outputs
                if ":" in key:
                    outputs[int(key.split(":")[0])].append(stored[key])
            return outputs, instructions


def native(model: Path, feeds: Sequence[Feeds]) -> Outputs:
    """Run a model file on this machine, on one thread."""
    session = open_session(model, threads=1)
    return [list(session.run(None, feed)) for feed in feeds]


def same_decisions(model: Path, expected: Outputs, found: Outputs) -> float | None:
    """Return the share of decisions that are those of the float model; None for a model without any.

    The largest value along a Softmax's axis decides, or along the second axis of an output that has two.
    """
    deciding = []
    for tap in find_taps(normalize(load(model))):
        axis = 1 if tap.axis is None and expected[0][tap.output].ndim == 2 else tap.axis
        if axis is not None and not tap.selected:
            deciding.append((tap.output, Decisions(axis)))
    for wants, haves in zip(expected, found, strict=True):
        for output, decisions in deciding:
            decisions.add(wants[output], haves[output])
    count = sum(decisions.count for _, decisions in deciding)
    return 1 - sum(decisions.changed for _, decisions in deciding) / count if count else None


@dataclass(frozen=True)
class Case:
    """A float model, its name in the table, and its samples."""

    name: str
    model: Path
    feeds: Sequence[Feeds]

    @staticmethod
    def of(name: str, model: Path, data: Path, preprocess: Path | None, samples: int) -> "Case":
        """Read evenly spread samples of a folder."""
        specs = model_inputs(load(model))
        forms = read_forms(str(preprocess)) if preprocess is not None else None
        chosen = spread(open_samples(data, specs, forms, 10**6), samples)
        return Case(name, model, [check_feeds(sample, specs) for sample in chosen])

    def compare(self, files: dict[str, Path], emulators: Sequence[Emulator]) -> list[Result]:
        """Run files on this machine and on each emulated CPU, and print a row for each."""
        expected, results = native(self.model, self.feeds), []
        here = {label: native(file, self.feeds) for label, file in files.items()}
        for label in files:
            results.append(self._result(label, NATIVE, expected, here[label], here[label]))
            show(results[-1])
        for emulator in emulators:
            whole = None
            if emulator.clock is not None:
                _, whole = emulated(emulator, self.model, self.feeds[:COUNTED])
            for label, file in files.items():
                try:
                    found, count = emulated(emulator, file, self.feeds)
                    row = self._result(label, emulator.cpu, expected, here[label], found)
                    results.append(row if whole is None else replace(row, fewer=round(whole / count, 2)))
                except EmulationError as error:
                    results.append(Result(self.name, label, emulator.cpu, error=str(error)))
                show(results[-1])
        return results

    def _result(self, label: str, cpu: str, expected: Outputs, here: Outputs, found: Outputs) -> Result:
        decisions = same_decisions(self.model, expected, found)
        share = None if decisions is None else round(decisions, 4)
        alike = None if cpu == NATIVE else round(sqnr_db(here, found), 1)
        return Result(self.name, label, cpu, round(sqnr_db(expected, found), 2), share, alike)


def show(result: Result) -> None:
    """Print a row of the table."""
    cells = asdict(result)
    if result.error:
        cells["sqnr_db"] = result.error[:100]
    print_row("-" if cells[key] is None else cells[key] for key in COLUMNS)


def quantized(folder: Path, targets: Sequence[str], kept: Path, options: Sequence[str]) -> dict[str, Path]:
    """Return a case's files by target, made unless they are there."""
    files = {target: kept / f"{folder.name}.{target}.onnx" for target in targets}
    for target, file in files.items():
        if not file.exists():
            making = quantize_command(
                folder / "model.onnx", folder / "calib", file, "--target", target, *options,
                preprocess=case_settings(folder),
            )  # fmt: skip
            subprocess.run(making, check=True)
    return files


def run_corpus(
    args: argparse.Namespace, options: Sequence[str], emulators: Sequence[Emulator]
) -> list[Result]:
    """Quantize and compare every case."""
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        kept = args.files or Path(scratch)
        kept.mkdir(parents=True, exist_ok=True)
        for folder in model_folders(args.corpus, args.case):
            data = folder / "eval" if (folder / "eval").is_dir() else folder / "calib"
            case = Case.of(folder.name, folder / "model.onnx", data, case_settings(folder), args.samples)
            files = quantized(folder, args.target, kept, options)
            results += case.compare(files, emulators)
    return results


def parse_arguments(own: list[str]) -> argparse.Namespace:
    """Parse this script's own arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("files", help="compare quantized files with their float model")
    one.add_argument("model", type=Path, help="float model")
    one.add_argument("file", type=Path, nargs="+", help="quantized files")
    one.add_argument("--data", type=Path, required=True, help="samples")
    one.add_argument("--preprocess", type=Path, help="TOML file that describes how a file becomes an input")
    many = commands.add_parser("corpus", help="quantize the cases of a corpus and compare the files")
    many.add_argument("corpus", type=Path, help="folder of folders with model.onnx, calib/, eval/, case.toml")
    many.add_argument("--case", nargs="*", help="only these cases")
    many.add_argument("--target", nargs="*", default=["portable", "arm"], help="targets of the files")
    many.add_argument("--files", type=Path, help="folder that keeps the files")
    for each in (one, many):
        each.add_argument("--cpu", nargs="*", default=list(USUAL), choices=list(CPUS), help="emulated CPUs")
        each.add_argument("--samples", type=int, default=8, help="evenly spread samples of a case (8)")
        each.add_argument("--environment", type=Path, default=ENVIRONMENT, help="folder (build/arm)")
        each.add_argument("--instructions", action="store_true", help="count instructions, too; needs gcc")
        each.add_argument("--record", type=Path, help="write all results to this JSON file")
    return parser.parse_args(own)


def main() -> None:
    """Print a row for each file and CPU."""
    own, options = divided(sys.argv[1:])
    args = parse_arguments(own)
    try:
        prepare(args.environment)
    except MissingToolError as error:
        raise SystemExit(f"{error}") from error
    print_header(COLUMNS.values())
    with tempfile.TemporaryDirectory() as scratch:
        clock = build_clock(Path(scratch)) if args.instructions else None
        emulators = [Emulator(args.environment, cpu, clock) for cpu in args.cpu]
        if args.command == "corpus":
            results = run_corpus(args, options, emulators)
        else:
            case = Case.of(args.model.stem, args.model, args.data, args.preprocess, args.samples)
            results = case.compare({file.name: file for file in args.file}, emulators)
    if args.record:
        record = {"machine": asdict(this_machine()), "options": " ".join(options)}
        rows = [asdict(result) for result in results]
        args.record.write_text(json.dumps(record | {"results": rows}, indent=1) + "\n")
    if any(result.error for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
