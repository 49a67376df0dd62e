"""The command `onnxq`: its subcommands and its configuration file."""

import importlib
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from onnxq.cli.config import DEFAULT, keys_of, read_config, remember_found_file
from onnxq.cli.console import answer_error
from onnxq.cli.groups import PrintsHelp, discard_stdout
from onnxq.cli.values import FILE
from onnxq.version import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "inspect": ("evaluate", "Show the operators of MODEL, and which nodes would become int8."),
    "init": (
        "settings",
        "Write an onnxq.toml for MODEL and DATA: how a file becomes an input, with comments.",
    ),
    "preview": ("settings", "Show what MODEL gets for a few samples of DATA, and what it answers."),
    "record": ("record", "Run COMMAND, an application, and record the inputs that it gives its models."),
    "quantize": ("quantize", "Quantize MODEL and write the result to a new file."),
    "finetune": (
        "finetune",
        "Quantize MODEL, train the int8 model on the samples, and write the better of both.",
    ),
    "calibrate": ("calibrate", "Collect activation statistics of MODEL for quantize --stats."),
    "eval": ("evaluate", "Compare the float MODEL with OTHERS on samples."),
    "debug": ("evaluate", "Show where the model INT8 deviates from its float MODEL."),
    "drift": (
        "drift",
        "Show how many values of an application fall outside the calibrated ranges of the file INT8.",
    ),
    "profile": ("profile", "Measure the kernels of ONNX Runtime on this device, for quantize --target FILE."),
    "bench": ("bench", "Measure MODELS in turns and compare them with the first."),
}
"""Module and short help of each command, in the order of use; `onnxq --help` loads none of the modules."""


class Commands(dict[str, click.Command]):
    """The commands by name; each is loaded when it is asked for."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(COMMANDS, click.Command(None)))
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            module = importlib.import_module(f"onnxq.cli.{COMMANDS[name][0]}")
            self._loaded[name] = getattr(module, "evaluate" if name == "eval" else name)
        return self._loaded[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a command, or the default for an unknown name."""
        return self[name] if name in self else default  # noqa: SIM401 (which would call itself)

    def items(self) -> Any:
        """Return names and commands, all loaded."""
        return [(name, self[name]) for name in self]

    def values(self) -> Any:
        """Return the commands, all loaded."""
        return [self[name] for name in self]


class CommandLine(PrintsHelp, click.Group):
    """A command group whose help keeps the order of the commands, and whose errors are one line each."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (as click calls it)
        """Name the commands in order."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the table of commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

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


main.commands = Commands()
