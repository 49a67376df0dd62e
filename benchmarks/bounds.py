"""What better weights could still gain: the noise of a file's weights and that of its activations, apart.

    python benchmarks/bounds.py CORPUS [--case NAME ...]

SQNR in dB over a case's samples for evaluation, the files run as written (exact arithmetic, no kernel can saturate):
`int8` the default; `full range` without the pair rule, which is what pairing weights by another order of K could reach at
most; `float weights` the default's activations alone, which no rounding of weights, however it is found, can exceed.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
from corpus_cases import folders, load_cases

from onnxq.comparison.metrics import OutputError
from onnxq.data.preprocessing import read_forms
from onnxq.data.samples import check_feeds, open_samples, spread
from onnxq.graph.edit import Names, add_initializer, constant, input_at
from onnxq.graph.files import load
from onnxq.normalize.passes import normalize
from onnxq.runtime.sessions import model_inputs, open_session
from onnxq.types import Array, Feeds

SAMPLES = 60


def quantized(folder: Path, output: Path, *options: str) -> ir.Model:
    """The default file, but for ranges found at run time, which are no Q/DQ."""
    command = [
        sys.executable, "-m", "onnxq", "quantize", str(folder / "model.onnx"), "--calib", str(folder / "calib"), "--preprocess",
        str(folder / "case.toml"), "-o", str(output), "--force", "-q", "--without", "ranges-at-run-time", *options,
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return load(output)


def with_float_weights(written: ir.Model, source: ir.Model) -> int:
    """Put the float model's weights and biases in place of the integers; how many nodes took them."""
    originals, names, changed = {node.name: node for node in source.graph}, Names(written), 0
    for node in [
        node
        for node in written.graph
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.name in originals
    ]:
        for index in (1, 2):
            value, original = input_at(node, index), input_at(originals[node.name], index)
            producer, array = value.producer() if value is not None else None, constant(original)
            if producer is not None and producer.op_type == "DequantizeLinear" and array is not None:
                node.replace_input_with(
                    index, add_initializer(written.graph, names.fresh(f"{node.name}_{index}_float"), array)
                )
                changed += index == 1
    return changed


def outputs(model: ir.Model, feeds: Sequence[Feeds], *, optimize: bool = False) -> list[list[Array]]:
    session = open_session(model, optimize=optimize)
    return [list(session.run(None, feed)) for feed in feeds]


def row(folder: Path) -> list[str]:
    source = normalize(load(folder / "model.onnx"))
    specs = model_inputs(source)
    data = folder / "eval" if (folder / "eval").is_dir() else folder / "calib"
    samples = spread(open_samples(data, specs, read_forms(str(folder / "case.toml")), 10**6), SAMPLES)
    feeds = [check_feeds(sample, specs) for sample in samples]
    expected = outputs(source, feeds, optimize=True)

    def decibels(model: ir.Model) -> str:
        error = OutputError([str(i) for i in range(len(expected[0]))])
        for want, have in zip(expected, outputs(model, feeds), strict=True):
            error.add(want, have)
        return f"{error.sqnr_db() or 0.0:.1f}"

    with tempfile.TemporaryDirectory() as scratch:
        # equalized and smoothed weights are others than the float model's
        same = ("--without", "equalization", "--without", "smoothing")
        written = quantized(folder, Path(scratch) / "int8.onnx", *same)
        found = [decibels(written)]
        found.append(
            decibels(quantized(folder, Path(scratch) / "full.onnx", *same, "--without", "no-saturation"))
        )
        return [*found, decibels(written)] if with_float_weights(written, source) else [*found, "-"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--case", nargs="*")
    args = parser.parse_args()
    load_cases(args.corpus)  # a corpus it is
    print("| case | int8 | full range | float weights |\n|---|---|---|---|")
    for folder in folders(args.corpus.resolve(), args.case):
        print("| " + " | ".join([folder.name, *row(folder)]) + " |", flush=True)


if __name__ == "__main__":
    main()
