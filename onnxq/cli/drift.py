"""`onnxq drift`."""

from pathlib import Path
from typing import Any

import click

from onnxq.cli.console import Console, exit_on_failed_gate, with_console
from onnxq.cli.groups import GroupedCommand, OptionGroup, option
from onnxq.cli.interrupts import loading_modules
from onnxq.cli.shared_options import SAMPLES, preprocess_option
from onnxq.cli.values import COUNT, FILE, Number


@click.command(
    cls=GroupedCommand,
    examples=[
        "onnxq drift model.int8.onnx --data recorded/ --reference calib/ --max-clipped 0.01",
    ],
    page="docs/record.md",
)
@click.argument("model", metavar="INT8", type=FILE)
@option(
    OptionGroup.DATA,
    "--data",
    type=FILE,
    required=True,
    function=True,
    help=f"Look at these samples: {SAMPLES}.",
)
@option(
    OptionGroup.DATA,
    "--reference",
    type=FILE,
    function=True,
    metavar="DATA|FILE",
    help="Compare with these samples, on which the file was calibrated, or with the JSON report of an "
    "earlier drift on them.",
)
@option(
    OptionGroup.DATA,
    "--float",
    "float_model",
    type=FILE,
    metavar="MODEL",
    help="Also measure the SQNR against this float model.",
)
@option(
    OptionGroup.DATA,
    "--samples",
    type=COUNT,
    default=100,
    metavar="N",
    help="Use at most N samples, evenly spaced.",
)
@preprocess_option
@option(
    OptionGroup.GATES,
    "--max-clipped",
    type=Number(0, 1),
    metavar="SHARE",
    help="Require that of each layer at most this share of values (0 to 1) is clipped, beyond the share of "
    "the reference.",
)
@option(
    OptionGroup.GATES,
    "--max-shift",
    type=Number(0),
    metavar="STD",
    help="Require that the mean of each layer differs by at most so many standard deviations from that of "
    "the reference.",
)
@option(
    OptionGroup.GATES,
    "--min-sqnr",
    type=Number(),
    metavar="DB",
    help="Require an SQNR against --float of at least DB decibels.",
)
@with_console
def drift(console: Console, model: Path, data: Path, **options: Any) -> None:
    """Show how many values of an application fall outside the calibrated ranges of the file INT8.

    The table lists the activations that drifted most. Where they exceed --max-clipped, calibrate
    again. Values that stay in their ranges but have another mean show as a shift.
    """
    with loading_modules():
        from onnxq.evaluation.drift import DriftOptions
        from onnxq.evaluation.drift import drift as run
        from onnxq.report.drift import drift_text

    report = run(model, data, DriftOptions(**options))
    console.warn(report.warnings)
    console.show(report, lambda: drift_text(report, verbose=console.verbose))
    exit_on_failed_gate(report.gates)
