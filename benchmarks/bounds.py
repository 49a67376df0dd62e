"""Bound the gain from better weights: the noise of a file's weights, apart from that of its activations.

    python benchmarks/bounds.py FOLDER [--case NAME ...] [-- OPTIONS OF onnxq quantize]

FOLDER is a corpus, or a folder of prepared cases (each with model.onnx, calib/ and eval/, as `wild.py --keep`
and `export_models.py` make them). The table gives the SQNR in dB of each case over 60 evaluation samples, the
files run as written: exact arithmetic, so no kernel saturates. `int8` is the default. `full range` drops the
rule against saturation of pairs, an upper bound for any pairing of weights along K. `float weights` keeps the
default's activations alone, an upper bound for any rounding of weights.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
from corpus_cases import divided
from harness import case_settings, model_folders, print_header, print_row, quantize_command
from sample_sqnr import read_feeds, sqnr_db

from onnxq.graph.edit import Names, add_initializer, constant, input_at
from onnxq.graph.files import load
from onnxq.normalize.passes import normalize
from onnxq.runtime.sessions import model_inputs, open_session
from onnxq.types import Array, Feeds

SAME_WEIGHTS = ("--without", "equalization", "--without", "smoothing")
"""Options that keep the float model's weights: equalization and smoothing change them before rounding."""


def quantized(folder: Path, output: Path, *options: str) -> ir.Model:
    """Quantize a case without run-time ranges, which are no Q/DQ, and load the file."""
    model, settings = folder / "model.onnx", case_settings(folder)
    more = ("--force", "--without", "ranges-at-run-time", *options)
    command = quantize_command(model, folder / "calib", output, *more, preprocess=settings)
    subprocess.run(command, check=True, capture_output=True)
    return load(output)


def restore_float_weights(written: ir.Model, source: ir.Model) -> int:
    """Replace quantized weights and biases by the float model's; return the number of changed nodes."""
    originals, names, changed = {node.name: node for node in source.graph}, Names(written), 0
    for node in list(written.graph):
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.name not in originals:
            continue
        for index in (1, 2):
            value, original = input_at(node, index), input_at(originals[node.name], index)
            producer, array = value.producer() if value is not None else None, constant(original)
            if producer is not None and producer.op_type == "DequantizeLinear" and array is not None:
                name = names.fresh(f"{node.name}_{index}_float")
                node.replace_input_with(index, add_initializer(written.graph, name, array))
                changed += index == 1
    return changed


def outputs(model: ir.Model, feeds: Sequence[Feeds], *, optimize: bool = False) -> list[list[Array]]:
    """Run a model on all feeds."""
    session = open_session(model, optimize=optimize)
    return [list(session.run(None, feed)) for feed in feeds]


def measure(folder: Path, options: Sequence[str]) -> list[str]:
    """Return the three SQNRs of a case, formatted; `-` where no node takes float weights."""
    source = normalize(load(folder / "model.onnx"))
    data = folder / "eval" if (folder / "eval").is_dir() else folder / "calib"
    feeds = read_feeds(data, model_inputs(source), case_settings(folder))
    expected = outputs(source, feeds, optimize=True)

    def sqnr(model: ir.Model) -> str:
        return f"{sqnr_db(expected, outputs(model, feeds)):.1f}"

    with tempfile.TemporaryDirectory() as scratch:
        written = quantized(folder, Path(scratch) / "int8.onnx", *SAME_WEIGHTS, *options)
        full_range = ("--without", "no-saturation")
        found = [
            sqnr(written),
            sqnr(quantized(folder, Path(scratch) / "full.onnx", *SAME_WEIGHTS, *full_range, *options)),
        ]
        return [*found, sqnr(written) if restore_float_weights(written, source) else "-"]


def main() -> None:
    """Print a row for each case."""
    own, options = divided(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="corpus, or folder of prepared cases")
    parser.add_argument("--case", nargs="*", help="only these cases")
    args = parser.parse_args(own)
    print_header(["case", "int8", "full range", "float weights"])
    for folder in model_folders(args.folder, args.case):
        print_row([folder.name, *measure(folder, options)])


if __name__ == "__main__":
    main()
