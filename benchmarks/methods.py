"""What `--method auto` loses to the method that turns out best: each method's file, judged over samples that nobody has seen.

    python benchmarks/methods.py FOLDER [--case NAME ...] [-- OPTIONS OF onnxq quantize]

Each case is a folder in FOLDER with model.onnx, calib/, eval/, and case.toml where the samples need one. SQNR in dB over 60
samples of eval/, in the runtime's integer kernels, without the fallback. Start it with `python benchmarks/older_cpu.py` for those
of a CPU without VNNI.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from corpus_cases import divided

from onnxq.comparison.metrics import OutputError
from onnxq.data.preprocessing import read_forms
from onnxq.data.samples import check_feeds, open_samples, spread
from onnxq.graph.files import load
from onnxq.options import Method
from onnxq.runtime.sessions import model_inputs, open_session, run
from onnxq.types import Array, Feeds

SAMPLES = 60
METHODS = [Method.AUTO, *(method for method in Method if method is not Method.AUTO)]


def sqnr_db(file: Path, feeds: Sequence[Feeds], expected: Sequence[Sequence[Array]]) -> float:
    session, error = open_session(file), OutputError([str(i) for i in range(len(expected[0]))])
    for feed, want in zip(feeds, expected, strict=True):
        error.add(want, run(session, feed, "a sample"))
    return error.sqnr_db() or 0.0


def row(folder: Path, options: Sequence[str]) -> list[float]:
    """SQNR of each method's file."""
    model, case = folder / "model.onnx", folder / "case.toml"
    forms = ["--preprocess", str(case)] if case.is_file() else []
    specs = model_inputs(load(model))
    samples = spread(
        open_samples(folder / "eval", specs, read_forms(str(case)) if forms else None, 10**6), SAMPLES
    )
    feeds = [check_feeds(sample, specs) for sample in samples]
    session = open_session(model)
    expected = [run(session, feed, "a sample") for feed in feeds]
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "int8.onnx"
        for method in METHODS:
            command = [
                sys.executable,
                "-m",
                "onnxq",
                "quantize",
                str(model),
                "--calib",
                str(folder / "calib"),
                *forms,
                "-o",
                str(file),
            ]
            more = ["--method", method, "--without", "fallback", "--force", "-q", *options]
            subprocess.run([*command, *more], check=True, capture_output=True)
            found.append(sqnr_db(file, feeds, expected))
    return found


def main() -> None:
    own, options = divided(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--case", nargs="*")
    args = parser.parse_args(own)
    print("| case | " + " | ".join(METHODS) + " | lost |\n|---|" + "---|" * (len(METHODS) + 1))
    losses = []
    for model in sorted(args.folder.resolve().glob("*/model.onnx")):
        if args.case and model.parent.name not in args.case:
            continue
        try:
            found = row(model.parent, options)
        except subprocess.CalledProcessError as error:
            print(f"| {model.parent.name} | {error.stderr.decode().strip().splitlines()[-1:]} |", flush=True)
            continue
        losses.append(max(found) - found[0])
        print(
            f"| {model.parent.name} | " + " | ".join(f"{each:.1f}" for each in (*found, losses[-1])) + " |",
            flush=True,
        )
    if losses:
        print(
            f"\nlost: mean {statistics.mean(losses):.2f} dB, median {statistics.median(losses):.2f}, most {max(losses):.1f}"
        )


if __name__ == "__main__":
    main()
