"""The command `onnxq`: its subcommands and its configuration file."""

import logging
import sys
from pathlib import Path

import click

from onnxq.cli.bench import bench
from onnxq.cli.calibrate import calibrate
from onnxq.cli.config import DEFAULT, keys_of, read_config
from onnxq.cli.console import BAD_INPUT, say
from onnxq.cli.evaluate import debug, evaluate, inspect
from onnxq.cli.quantize import quantize
from onnxq.cli.shared_options import FILE
from onnxq.errors import OnnxqError
from onnxq.version import __version__


class OrderedGroup(click.Group):
    """A command group whose help lists the commands as they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (as click calls it)
        """Name the commands in order."""
        return list(self.commands)


@click.group(
    cls=OrderedGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nHelp on a command: onnxq COMMAND --help\nDocumentation: README.md in the repository",
)
@click.version_option(__version__, prog_name="onnxq")
@click.option(
    "--config",
    type=FILE,
    metavar="FILE",
    help="Read options from this TOML file; by default from onnxq.toml in the current folder.",
)
@click.pass_context
def main(context: click.Context, config: Path | None) -> None:
    """Quantize ONNX models to integers for ONNX Runtime on CPUs, and verify accuracy and speed.

    Exit code 0: success. 1: a gate failed. 2: wrong usage or bad input.
    """
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # its warnings concern its own passes
    path = config or (DEFAULT if DEFAULT.is_file() else None)
    if path is None:
        return
    try:
        known = {name: keys_of(command.params) for name, command in main.commands.items()}
        context.default_map = read_config(path, known)
    except OnnxqError as error:
        say(f"error: {error}")
        sys.exit(BAD_INPUT)
    if config is None:
        say(f"using {path}")


for _command in (inspect, quantize, calibrate, evaluate, debug, bench):
    main.add_command(_command)
