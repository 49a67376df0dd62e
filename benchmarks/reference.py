"""Prove that a change of the code changes no output file: digests of the files of many commands.

    python benchmarks/reference.py record FILE.json [--corpus FOLDER] [--only NAME ...] [--quick]
    python benchmarks/reference.py compare BEFORE.json AFTER.json

`record` runs each command of `COMMANDS` on both sample models, and each of `CORPUS_COMMANDS` on the cases of
a corpus folder. It stores the exit code, the SHA-256 of each written file, and the SHA-256 of the JSON report
without times, prose and folder names. `compare` lists the differences between two records, and exits with 1
if there are any. Both records must come from one machine with the same packages. `--only` chooses models,
`--quick` runs every third command.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = {"digits_cnn": "calib_data/calib", "digits_transformer": "calib_data/calib"}

COMMANDS: dict[str, str] = {
    "default": "",
    **{
        f"method-{each}": f"--method {each}"
        for each in ("minmax", "moving-average", "percentile", "entropy", "mse")
    },
    "qoperator": "--format qoperator",
    "all-int8": "--all-int8",
    "qoperator-all-int8": "--format qoperator --all-int8",
    "standard": "--standard",
    "per-tensor": "--per-tensor --all-int8",
    "vnni": "--target vnni",
    "arm": "--target arm",
    "fast": "--effort fast",
    "best": "--effort best",
    "min-sqnr": "--all-int8 --min-sqnr 40",
    "max-drop": "--all-int8 --max-drop 0.5 --labels calib_data/calib/labels.csv",
    "without": "--without gptq --without smoothing --without equalization --without fallback",
    "exclude": "--all-int8 --op-types MatMul --samples 60",
    "dynamic": "--mode dynamic",
    "fp16": "--mode fp16",
    "auto": "--mode auto --prefer size",
    "auto-accuracy": "--mode auto --prefer accuracy",
    **{
        f"weights-{kind}-{how}": f"--mode weights --weight-type {kind} --rounding {how}"
        for kind in ("int8", "int4")
        for how in ("rtn", "hqq", "gptq", "awq")
    },
    "weights-nf4": "--mode weights --weight-type nf4",
    "weights-fp4": "--mode weights --weight-type fp4 --block 64",
    "weights-affine": "--mode weights --affine --block channel",
    "weights-standard": "--mode weights --standard --float-compute",
}
"""Options of `onnxq quantize` by name, for the sample models."""

CORPUS_COMMANDS: dict[str, str] = {
    "default": "",
    "all-int8": "--all-int8 --effort fast",
    "qoperator": "--format qoperator --effort fast",
    "dynamic": "--mode dynamic",
    "dynamic-lstm": "--dynamic-lstm --effort fast",
    "weights": "--mode weights --rounding gptq --samples 16",
    "fp16": "--mode fp16",
    "min-sqnr": "--effort fast --min-sqnr 35",
}
"""The same for the cases of a corpus."""
TIMES = frozenset({"seconds", "latency"})
"""Keys of a report that change from run to run."""
PROSE = frozenset({"reason", "warnings", "notes", "line"})
"""Keys whose text may be reworded at any time."""


@dataclass(frozen=True)
class Command:
    """One run: its name, and the arguments of `onnxq` without the output."""

    name: str
    arguments: tuple[str, ...]


def commands(corpus: Path | None, only: list[str] | None) -> Iterator[Command]:
    """Yield all runs, model by model."""
    for name, data in SAMPLES.items():
        if only and name not in only:
            continue
        for label, options in COMMANDS.items():
            arguments = ("quantize", f"sample_models/{name}.onnx", "--calib", data, *options.split())
            yield Command(f"{name}/{label}", arguments)
        yield Command(f"{name}/sharded-stats", ("stats", f"sample_models/{name}.onnx", data))
    for case in sorted(path.parent for path in corpus.glob("*/case.toml")) if corpus else []:
        if only and case.name not in only:
            continue
        model, calib = str(case / "model.onnx"), str(case / "calib")
        settings = ("--preprocess", str(case / "case.toml"))
        for label, options in CORPUS_COMMANDS.items():
            arguments = ("quantize", model, "--calib", calib, *settings, *options.split())
            yield Command(f"{case.name}/{label}", arguments)


def run(command: Command) -> dict[str, Any]:
    """Run one command in a folder of its own and return the digests of its files and its report."""
    with tempfile.TemporaryDirectory(prefix="reference-") as folder:
        made = Path(folder) / "out.onnx"
        arguments = list(command.arguments)
        if arguments[0] == "stats":
            shards = [Path(folder) / f"{k}.npz" for k in (1, 2)]
            for k, shard in enumerate(shards, 1):
                onnxq(
                    "calibrate", arguments[1], "--calib", arguments[2], "--shard", f"{k}/2", "-o", str(shard)
                )
            stats = [word for shard in shards for word in ("--stats", str(shard))]
            done = onnxq("quantize", arguments[1], *stats, "--json", "-o", str(made))
        else:
            done = onnxq(*arguments, "--json", "-o", str(made))
        files = {
            path.name: digest(path.read_bytes())
            for path in sorted(Path(folder).iterdir())
            if path.suffix != ".npz"
        }
        try:
            report = json.dumps(timeless(json.loads(done.stdout.replace(folder, "FOLDER"))), sort_keys=True)
        except json.JSONDecodeError:
            report = ""  # an error: its exit code counts, its text does not
        return {
            "code": done.returncode,
            "files": files,
            "report": digest(report.encode()),
            "said": done.stderr if done.returncode else "",
        }


def onnxq(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "onnxq", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def timeless(value: Any) -> Any:
    """Remove times and prose from a report."""
    if isinstance(value, dict):
        return {key: timeless(each) for key, each in value.items() if key not in TIMES | PROSE}
    if isinstance(value, list):
        return [timeless(each) for each in value]
    return value


def digest(content: bytes) -> str:
    """Return a shortened SHA-256, long enough to distinguish files."""
    return hashlib.sha256(content).hexdigest()[:24]


def record(target: Path, corpus: Path | None, only: list[str] | None, *, quick: bool) -> None:
    """Run all commands and update the record after each."""
    results: dict[str, Any] = {}
    for command in list(commands(corpus, only))[:: 3 if quick else 1]:
        results[command.name] = run(command)
        found = results[command.name]
        print(command.name, found["code"], *found["files"].values(), flush=True)
        target.write_text(json.dumps(results, indent=1) + "\n")
    print(f"{len(results)} commands, {sum(len(each['files']) for each in results.values())} files")


def compare(before: Path, after: Path) -> bool:
    """Print the differences between two records; return True if there are none."""
    old, new = (json.loads(path.read_text()) for path in (before, after))
    both = [name for name in old if name in new]
    changed = {
        name: [key for key in ("code", "files", "report") if old[name][key] != new[name][key]]
        for name in both
    }
    for name, keys in changed.items():
        if keys:
            print(f"{name}: {', '.join(keys)} changed")
    files = sum(len(old[name]["files"]) for name in both)
    same = sum(not keys for keys in changed.values())
    alone = len(set(old) ^ set(new))
    print(f"{same} of {len(both)} commands the same ({files} files); {alone} in one record alone")
    return same == len(both)


def main() -> None:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    steps = parser.add_subparsers(dest="step", required=True)
    recording = steps.add_parser("record", help="run all commands and store their digests")
    recording.add_argument("target", type=Path, help="JSON file of the record")
    recording.add_argument("--corpus", type=Path, help="folder of further cases")
    recording.add_argument("--only", nargs="*", help="only these models")
    recording.add_argument("--quick", action="store_true", help="every third command")
    comparing = steps.add_parser("compare", help="list the differences of two records")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    args = parser.parse_args()
    if args.step == "record":
        record(args.target, args.corpus, args.only, quick=args.quick)
    elif not compare(args.before, args.after):
        sys.exit(1)


if __name__ == "__main__":
    main()
