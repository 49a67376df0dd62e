"""`onnxq calibrate`."""

import re
from typing import Any

import click

from onnxq.cli.console import Console, with_console
from onnxq.cli.groups import GroupedCommand, OptionGroup, option
from onnxq.cli.interrupts import loading_modules
from onnxq.cli.shared_options import cluster_option, force_option, node_options, sample_options
from onnxq.cli.values import FILE, TEXT_OR_FILE
from onnxq.errors import OnnxqError
from onnxq.options import QuantizeOptions, output_file


@click.command(
    cls=GroupedCommand,
    examples=[
        "onnxq calibrate model.onnx --calib data/ -o stats.npz",
        "onnxq quantize model.onnx --stats stats.npz --method mse",
    ],
    page="docs/data.md",
)
@click.argument("model", type=FILE)
@sample_options
@option(
    OptionGroup.DATA,
    "--shard",
    default="1/1",
    metavar="K/N",
    help="Use only the K-th of N parts of the samples; quantize --stats merges the parts.",
)
@node_options
@cluster_option
@option(
    OptionGroup.OUTPUT,
    "-o",
    "--output",
    type=TEXT_OR_FILE,
    required=True,
    writes=True,
    metavar="FILE",
    help="Write the statistics to this .npz file, or into this folder if the name ends in a slash.",
)
@force_option
@with_console
def calibrate(console: Console, output: str, shard: str, **options: Any) -> None:
    """Collect activation statistics of MODEL for quantize --stats."""
    from onnxq.runtime.memory import loading, reuse_freed_memory

    reuse_freed_memory()
    with loading_modules(), loading("onnxq.pipeline"):
        from onnxq.pipeline import calibrate as run

    chosen = QuantizeOptions(**options)
    path = output_file(output, f"{chosen.model.stem}.stats.npz")
    statistics = run(chosen, path, _parse_shard(shard))
    ranges = {name: (sketch.minimum, sketch.maximum) for name, sketch in statistics.sketches.items()}
    summary = {
        "output": str(path),
        "samples": statistics.samples,
        "model_sha256": statistics.model,
        "ranges": ranges,
    }
    console.show(summary, lambda: f"wrote {path}: {len(ranges)} tensors, {statistics.samples} samples")


def _parse_shard(text: str) -> tuple[int, int]:
    """Parse K/N; raise an `OnnxqError` unless 1 <= K <= N."""
    found = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
    k, n = (int(each) for each in found.groups()) if found is not None else (0, 0)
    if not 1 <= k <= n:
        raise OnnxqError(f"--shard {text}: expected K/N with 1 <= K <= N, for example 2/4")
    return k, n
