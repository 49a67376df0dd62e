"""`onnxq calibrate`."""

from pathlib import Path
from typing import Any

import click

from onnxq.cli.console import Console, with_console
from onnxq.cli.groups import GroupedCommand, OptionGroup, option
from onnxq.cli.shared_options import FILE, force_option, node_options, sample_options
from onnxq.errors import OnnxqError
from onnxq.options import QuantizeOptions
from onnxq.runtime.memory import loading, reuse_freed_memory


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
@option(
    OptionGroup.OUTPUT,
    "-o",
    "--output",
    type=FILE,
    required=True,
    metavar="FILE",
    help="Write the statistics to this .npz file.",
)
@force_option
@with_console
def calibrate(console: Console, output: Path, shard: str, **options: Any) -> None:
    """Collect activation statistics of MODEL for quantize --stats."""
    reuse_freed_memory()
    with loading("onnxq.pipeline"):
        from onnxq.pipeline import calibrate as run

    statistics = run(QuantizeOptions(**options), output, _parse_shard(shard))
    ranges = {name: (sketch.minimum, sketch.maximum) for name, sketch in statistics.sketches.items()}
    summary = {
        "output": str(output),
        "samples": statistics.samples,
        "model_sha256": statistics.model,
        "ranges": ranges,
    }
    console.show(summary, f"wrote {output}: {len(ranges)} tensors, {statistics.samples} samples")


def _parse_shard(text: str) -> tuple[int, int]:
    """Parse K/N; raise an `OnnxqError` unless 1 <= K <= N."""
    k, slash, n = text.partition("/")
    if not slash or not k.isdigit() or not n.isdigit() or not 1 <= int(k) <= int(n):
        raise OnnxqError(f"--shard {text}: expected K/N with 1 <= K <= N, for example 2/4")
    return int(k), int(n)
