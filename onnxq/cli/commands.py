"""The command `onnxq`: its subcommands and its configuration file."""

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from onnxq.cli.bench import bench
from onnxq.cli.calibrate import calibrate
from onnxq.cli.config import DEFAULT, keys_of, read_config, remember_found_file
from onnxq.cli.console import answer_error
from onnxq.cli.drift import drift
from onnxq.cli.evaluate import debug, evaluate, inspect
from onnxq.cli.finetune import finetune
from onnxq.cli.groups import PrintsHelp, discard_stdout
from onnxq.cli.quantize import quantize
from onnxq.cli.record import record
from onnxq.cli.settings import init, preview
from onnxq.cli.values import FILE
from onnxq.version import __version__


class CommandLine(PrintsHelp, click.Group):
    """A command group whose help keeps the order of the commands, and whose errors are one line each."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (as click calls it)
        """Name the commands in order."""
        return list(self.commands)

    def main(self, args: Any = None, *, standalone_mode: bool = True, **settings: Any) -> Any:  # type: ignore[override]
        """Run the command line; by default, end with the exit code that `answer_error` gives an error."""
        settings["obj"] = shlex.join(["onnxq", *(sys.argv[1:] if args is None else args)])  # for reports
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **settings)
        try:
            code = super().main(args, standalone_mode=False, **settings)
        except getattr(click.exceptions, "NoArgsIsHelpError", ()) as asked:
            asked.show()
            sys.exit(asked.exit_code)
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, OSError):
                discard_stdout()  # the help could not be printed
            sys.exit(answer_error(error, verbose=not {"-v", "--verbose"}.isdisjoint(sys.argv)))
        sys.exit(code if isinstance(code, int) else 0)


@click.group(
    cls=CommandLine,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nHelp on a command: onnxq COMMAND --help\nDocumentation: README.md in the repository",
)
@click.version_option(__version__, prog_name="onnxq")
@click.option(
    "--config",
    type=FILE,
    metavar="FILE",
    help="Read options from this TOML file; by default from onnxq.toml in the current folder, which may then "
    "neither run Python code nor name files to write.",
)
@click.pass_context
def main(context: click.Context, config: Path | None) -> None:
    """Quantize ONNX models to integers for ONNX Runtime on CPUs, and verify accuracy and speed.

    Exit code 0: success. 1: a gate failed. 2: wrong usage or bad input. 70: a fault of onnxq itself.
    """
    path = config or (DEFAULT if DEFAULT.is_file() else None)
    if path is None:
        return
    known = {name: keys_of(command.params) for name, command in main.commands.items()}
    context.default_map = read_config(path, known)
    if config is None:
        remember_found_file(context, path)


for _command in (
    inspect, init, preview, record, quantize, finetune, calibrate, evaluate, debug, drift, bench
):  # fmt: skip
    main.add_command(_command)
