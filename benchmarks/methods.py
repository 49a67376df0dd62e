"""Measure the loss of `--method auto` against the best method in hindsight.

    python benchmarks/methods.py FOLDER [--case NAME ...] [-- OPTIONS OF onnxq quantize]

A case is a folder in FOLDER with model.onnx, calib/, eval/, and case.toml where samples need preprocessing.
The table has one row a case: the SQNR in dB of each method's file over 60 samples of eval/, in the
runtime's integer kernels, without the fallback to float; then the loss of `auto` in dB. Start it with
`python benchmarks/older_cpu.py python benchmarks/methods.py ...` for the kernels of a CPU without VNNI.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from corpus_cases import divided
from harness import case_settings, model_folders, print_header, print_row, quantize_command
from sample_sqnr import read_feeds, sqnr_db

from onnxq.graph.files import load
from onnxq.options import Method
from onnxq.runtime.sessions import model_inputs, open_session, run
from onnxq.types import Array, Feeds

METHODS = [Method.AUTO, *(method for method in Method if method is not Method.AUTO)]


def outputs(model: Path, feeds: Sequence[Feeds]) -> list[list[Array]]:
    """Run a model on all feeds."""
    session = open_session(model)
    return [list(run(session, feed, "a sample")) for feed in feeds]


def measure(folder: Path, options: Sequence[str]) -> list[float]:
    """Quantize a case with each of METHODS and return the SQNRs in dB."""
    model, settings = folder / "model.onnx", case_settings(folder)
    feeds = read_feeds(folder / "eval", model_inputs(load(model)), settings)
    expected = outputs(model, feeds)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "int8.onnx"
        for method in METHODS:
            more = ("--method", method, "--without", "fallback", "--force", *options)
            command = quantize_command(model, folder / "calib", file, *more, preprocess=settings)
            subprocess.run(command, check=True, capture_output=True)
            found.append(sqnr_db(expected, outputs(file, feeds)))
    return found


def main() -> None:
    """Print a row for each case and the summary of the losses."""
    own, options = divided(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the cases")
    parser.add_argument("--case", nargs="*", help="only these cases")
    args = parser.parse_args(own)
    print_header(["case", *METHODS, "lost"])
    losses = []
    for folder in model_folders(args.folder, args.case):
        try:
            found = measure(folder, options)
        except subprocess.CalledProcessError as error:
            print_row([folder.name, error.stderr.decode().strip().splitlines()[-1:]])
            continue
        losses.append(max(found) - found[0])
        print_row([folder.name, *(f"{each:.1f}" for each in (*found, losses[-1]))])
    if losses:
        mean, median = statistics.mean(losses), statistics.median(losses)
        print(f"\nlost: mean {mean:.2f} dB, median {median:.2f}, most {max(losses):.1f}")


if __name__ == "__main__":
    main()
