"""`onnxq profile`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxq.cli.console import Console, with_console
from onnxq.cli.groups import GroupedCommand, OptionGroup, option
from onnxq.cli.interrupts import loading_modules
from onnxq.cli.shared_options import force_option
from onnxq.cli.values import REPORT, THREADS

if TYPE_CHECKING:
    from onnxq.profiling.profile import Profile


@click.command(
    cls=GroupedCommand,
    examples=[
        "onnxq profile -o pi5.toml",
        "onnxq quantize model.onnx --calib data/ --target pi5.toml",
    ],
    page="docs/target.md",
)
@option(
    OptionGroup.OUTPUT,
    "-o",
    "--output",
    type=REPORT,
    required=True,
    writes=True,
    metavar="FILE.toml",
    help="Write the target file here.",
)
@force_option
@option(
    OptionGroup.SPEED,
    "--threads",
    type=THREADS,
    default=1,
    metavar="N",
    help="Measure kernels with N threads, as the application will run the model.",
)
@with_console
def profile(console: Console, output: Path, threads: int, force: bool) -> None:
    """Measure the kernels of ONNX Runtime on this device, for quantize --target FILE.

    The file plans for this device on any machine. Measuring takes a few minutes. Other work on the
    device slows kernels; those that do not take the same time twice are measured again.
    """
    with loading_modules():
        from onnxq.profiling.profile import profile as run

    found = run(output, threads, force=force)
    console.warn(found.warnings)
    console.show({"output": str(output), **found.summary()}, lambda: _text(found, output, console))


def _text(found: "Profile", output: Path, console: Console) -> str:
    """Describe a profile; with --verbose, row by row."""
    from onnxq.report.tables import table

    file = found.file
    layout = f"float convolutions in blocks of {file.block}" if file.block else "no blocked float layout"
    sums = "integer sums saturate" if file.saturates else "exact integer sums"
    lines = [
        f"{file.machine.cpu}; {' '.join(file.machine.instructions)}; onnxruntime {file.machine.onnxruntime}",
        f"{layout}; {sums}; {file.threads} thread{'s' * (file.threads > 1)}",
        f"{found.models} models in {found.rounds} rounds, {found.seconds:.0f} s; {found.unsettled} unsteady",
        f"wrote {output}",
    ]
    if console.verbose:
        rows = [[row.name, str(row.kernels), f"{row.median:.0%}", f"{row.high:.0%}"] for row in found.rows]
        lines.insert(3, table([["row", "kernels", "median error", "90 % below"], *rows], width=console.width))
    return "\n".join(lines)
