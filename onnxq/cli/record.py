"""`onnxq record`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxq.cli.console import BAD_INPUT, Console, say, with_console
from onnxq.cli.groups import GroupedCommand, OptionGroup, option
from onnxq.cli.interrupts import loading_modules
from onnxq.cli.values import COUNT, FILE, Number

if TYPE_CHECKING:
    from onnxq.recording.collection import Recording


@click.command(
    cls=GroupedCommand,
    context_settings={"allow_interspersed_args": False},
    examples=[
        "onnxq record -o calib/ -- python app.py --input photo.jpg",
        "onnxq quantize model.onnx --calib calib/",
    ],
    page="docs/record.md",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@option(
    OptionGroup.OUTPUT,
    "-o",
    "--output",
    type=FILE,
    required=True,
    writes=True,
    metavar="FOLDER",
    help="Write a folder for each model of the application into this folder.",
)
@option(
    OptionGroup.DATA,
    "--samples",
    type=COUNT,
    default=200,
    metavar="N",
    help="Keep at most N calls of each model, drawn evenly from the whole run; the same call once.",
)
@option(
    OptionGroup.DATA,
    "--max-bytes",
    type=Number(1),
    default=1e9,
    metavar="BYTES",
    help="Keep at most so many bytes of inputs of each model.",
)
@option(
    OptionGroup.DATA,
    "--outputs",
    is_flag=True,
    help="Record the outputs too, in a folder beside the inputs.",
)
@option(
    OptionGroup.DATA,
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    metavar="N",
    help="Draw the calls with this seed.",
)
@option(OptionGroup.OUTPUT, "--force", is_flag=True, writes=True, help="Replace an earlier recording.")
@with_console
def record(
    console: Console, command: tuple[str, ...], output: Path, max_bytes: float, **options: Any
) -> None:
    """Run COMMAND, an application, and record the inputs that it gives its models.

    All Python processes of the application are recorded, whatever packages they use. The exit code is the
    application's; 2 if it succeeds but runs no model. Its output and signals pass through.
    """
    with loading_modules():
        from onnxq.recording.application import RecordOptions, record_application

    found = record_application(command, RecordOptions(output, bytes=int(max_bytes), **options))
    console.warn(found.warnings)
    if console.as_json:
        console.show(found, str)
    elif not console.quiet:  # on stderr: stdout is the application's
        for line in _lines(found):
            say(line)
    if not found.models and not found.exit_code:
        say(
            "error: nothing was recorded: no ONNX Runtime session ran in a Python process that reads "
            "PYTHONPATH (python -I and -E do not): check the command"
        )
        sys.exit(BAD_INPUT)
    sys.exit(found.exit_code)


def _lines(recording: "Recording") -> list[str]:
    """Describe each recorded model, and give the command that quantizes the first."""
    lines = []
    for model in recording.models:
        parts = f" in {model.sequences} sequences" if model.sequences else ""
        processes = f", {model.processes} processes" if model.processes > 1 else ""
        size = f"{model.bytes / 1e6:.1f} MB{processes}"
        lines.append(f"recorded {model.folder}: {model.samples} of {model.calls} calls{parts}, {size}")
    named = [model.path for model in recording.models if model.path]
    if recording.models:
        model_file = named[0] if named else "MODEL.onnx"
        lines.append(f"quantize with: onnxq quantize {model_file} --calib {recording.folder}")
    return lines
