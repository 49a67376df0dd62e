"""`onnxq bench`."""

from pathlib import Path
from typing import Any

import click

from onnxq.cli.console import Console, exit_on_failed_gate, with_console
from onnxq.cli.groups import GroupedCommand, OptionGroup, completing, option
from onnxq.cli.interrupts import loading_modules
from onnxq.cli.shared_options import SAMPLES, parse_shapes, pop_limits, preprocess_option, shape_option
from onnxq.cli.values import COUNT, FILE, TEXT_OR_FILE, THREADS, Number
from onnxq.options import Target


@click.command(
    cls=GroupedCommand,
    examples=["onnxq bench model.onnx model.int8.onnx --data data/ --threads 1 --threads 2"],
    page="docs/results.md",
)
@click.argument("models", type=FILE, nargs=-1, required=True)
@option(
    OptionGroup.DATA,
    "--data",
    type=FILE,
    function=True,
    help=f"Run on samples ({SAMPLES}) instead of random values.",
)
@preprocess_option
@shape_option
@option(
    OptionGroup.DATA,
    "--tokens",
    type=COUNT,
    metavar="N",
    help="Generate N tokens after the first sample, for language models.",
)
@option(
    OptionGroup.SPEED,
    "--batch",
    "batches",
    type=COUNT,
    multiple=True,
    default=(1,),
    metavar="N",
    help="Measure batch size N.",
)
@option(
    OptionGroup.SPEED,
    "--threads",
    type=THREADS,
    multiple=True,
    default=(1,),
    metavar="N",
    help="Measure with N threads.",
)
@option(
    OptionGroup.SPEED,
    "--runs",
    type=click.IntRange(5, 2**31 - 1),
    default=200,
    metavar="N",
    help="Run each model at most N times (5 or more).",
)
@option(
    OptionGroup.SPEED,
    "--seconds",
    type=Number(0, min_open=True),
    default=10.0,
    metavar="S",
    help="Start no further turn after S seconds.",
)
@option(
    OptionGroup.SPEED,
    "--target",
    type=TEXT_OR_FILE,
    multiple=True,
    metavar=f"{'|'.join(Target)}|FILE",
    shell_complete=completing(Target, files=True),
    help="Also show the latency that the cost model expects of this CPU family or file of onnxq profile; the "
    "first model must be float.",
)
@option(
    OptionGroup.GATES,
    "--min-speedup",
    type=Number(),
    metavar="RATIO",
    help="Require a speed-up over the first model of at least RATIO, at every setting.",
)
@option(
    OptionGroup.GATES,
    "--max-size",
    type=Number(),
    metavar="RATIO",
    help="Require files of at most RATIO times the first model's size.",
)
@with_console
def bench(console: Console, models: tuple[Path, ...], shapes: tuple[str, ...], **options: Any) -> None:
    """Measure MODELS in turns and compare them with the first.

    The report shows latency, throughput, load time, memory and size.
    """
    with loading_modules():
        from onnxq.evaluation.benchmark import BenchOptions
        from onnxq.evaluation.benchmark import bench as run
        from onnxq.report.text import bench_text

    limits = pop_limits(options)
    sizes = parse_shapes(shapes)
    report = run(models, BenchOptions(shapes=sizes, limits=limits, **options))
    console.warn(report.warnings)
    console.show(report, lambda: bench_text(report, width=console.width))
    exit_on_failed_gate(report.gates)
