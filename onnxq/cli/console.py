"""Output of a command: its report on stdout, messages on stderr, errors as one line, the exit code."""

import contextlib
import functools
import os
import shutil
import sys
import warnings as python_warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from onnxq.cli.config import check_found_file, found_file
from onnxq.cli.groups import OptionGroup, discard_stdout, option
from onnxq.cli.interrupts import INTERRUPTED, Terminated, cleaning_up, loading_modules
from onnxq.errors import OnnxqError, OutputError, first_line
from onnxq.report.escaping import printable, printable_lines
from onnxq.runtime.progress import hidden_progress
from onnxq.runtime.status import activity, aside, fitted, live_status

if TYPE_CHECKING:
    from onnxq.evaluation.gates import Gate

T = TypeVar("T")
GATE_FAILED, BAD_INPUT, OWN_FAULT, TERMINATED = 1, 2, 70, 143
"""Exit codes; 70 is EX_SOFTWARE of sysexits.h."""
INTERRUPTION = "onnxq: error: interrupted, nothing was written"
"""Last words of a command that is ended while native code runs."""


@dataclass(frozen=True)
class Console:
    """How a command reports.

    as_json  print the report as JSON
    verbose  print more, and the traceback of an error
    quiet    print errors only
    command  the command line
    """

    as_json: bool
    verbose: bool
    quiet: bool
    command: str = ""

    def signed(self, report: T) -> T:
        """Return a report whose origin names the command."""
        made = getattr(report, "origin", None)
        if made is None:
            return report
        return cast(T, replace(cast(Any, report), origin=replace(made, command=self.command)))

    def show(self, report: Any, text: Callable[[], str]) -> None:
        """Print a report on stdout, as JSON or as its text.

        A reader that closes the pipe has seen enough: that is no error.

        Raises:
            OutputError: stdout cannot be written.
        """
        if self.quiet and not self.as_json:
            return
        if self.as_json:
            from onnxq.report.files import as_text

            shown = as_text(report)
        else:
            shown = printable_lines(text())
        try:
            with aside():
                click.echo(shown)
        except BrokenPipeError:
            discard_stdout()
        except OSError as error:
            discard_stdout()
            raise OutputError(
                f"standard output: the report cannot be written ({error.strerror}): check where it goes"
            ) from error

    def warn(self, warnings: Iterable[str]) -> None:
        """Print warnings on stderr, each once."""
        for warning in () if self.quiet else dict.fromkeys(warnings):
            say(warning, "warning", "yellow")

    @property
    def width(self) -> int | None:
        """Columns of the terminal, or of COLUMNS; None where stdout is neither."""
        if not sys.stdout.isatty() and not os.environ.get("COLUMNS", "").isdecimal():
            return None
        return max(40, shutil.get_terminal_size().columns)


def say(line: str, kind: str = "", colour: str | None = None) -> None:
    """Print a line on stderr, with control characters escaped; a terminal gets it wrapped to its width.

    Args:
        line: the line.
        kind: of the line, such as "warning"; printed before it, in the colour.
        colour: of the kind on a terminal, unless NO_COLOR is set (no-color.org).
    """
    start = f"onnxq: {kind}: " if kind else "onnxq: "
    head = click.style(f"{kind}: ", fg=colour, bold=True) if kind else ""
    text = fitted(start + printable(line))[len(start) :]
    plain = False if os.environ.get("NO_COLOR") else None
    with contextlib.suppress(OSError), aside():  # stderr is full or closed: nobody can be told
        click.echo(f"onnxq: {head}{text}", err=True, color=plain)


def exit_on_failed_gate(gates: list["Gate"]) -> None:
    """Print each gate that does not hold, and exit with 1 if there is one."""
    failed = [gate.line for gate in gates if not gate.holds]
    for line in failed:
        say(line, "gate failed", "red")
    if failed:
        sys.exit(GATE_FAILED)


def answer_error(error: BaseException, *, verbose: bool) -> int:
    """Print an error on one line, and its traceback if `verbose`; return the exit code."""
    if verbose:
        import traceback

        with contextlib.suppress(OSError):
            click.echo(printable_lines("".join(traceback.format_exception(error))), err=True)
    line, code = _line_and_code(error)
    say(line, "error", "red")
    return code


def _line_and_code(error: BaseException) -> tuple[str, int]:
    """Return the line that an error is worth, and its exit code."""
    if isinstance(error, OnnxqError):
        return str(error), BAD_INPUT
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx is not None else "onnxq"
        return f"{error.format_message().rstrip('.')}: see {command} --help", BAD_INPUT
    if isinstance(error, click.ClickException):
        return error.format_message(), BAD_INPUT
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "interrupted, no file was left half-written", INTERRUPTED
    if isinstance(error, Terminated):
        return "terminated, no file was left half-written", TERMINATED
    if isinstance(error, MemoryError):
        return "not enough memory: use fewer or smaller samples, or a machine with more", BAD_INPUT
    if isinstance(error, ImportError):
        return f"{first_line(error)}: a package is missing or broken: install onnxq again", BAD_INPUT
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return f"{where}{error.strerror}: check the path, its permissions and the free space", BAD_INPUT
    found = type(error).__name__ if str(error) == "" else f"{type(error).__name__}: {first_line(error)}"
    return f"fault in onnxq itself ({found}): please report it with what -v prints", OWN_FAULT


def with_console(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options about printing to a command, and pass them on as a `Console`.

    An error that the user can cause becomes one line on stderr and exit code 2; a fault of onnxq's own
    becomes one line and exit code 70.
    """

    @option(OptionGroup.OUTPUT, "--json", "as_json", is_flag=True, help="Print the report as JSON.")
    @option(
        OptionGroup.GENERAL,
        "-v",
        "--verbose",
        is_flag=True,
        help="Print more details, and the traceback of an error.",
    )
    @option(OptionGroup.GENERAL, "-q", "--quiet", is_flag=True, help="Print only errors.")
    @functools.wraps(command)
    def run(*, as_json: bool, verbose: bool, quiet: bool, **options: Any) -> None:
        context = click.get_current_context()
        with loading_modules():
            from onnxq.runtime.interruption import stopping_runs

        try:
            with (
                cleaning_up(),
                stopping_runs(INTERRUPTION),
                python_warnings.catch_warnings(),
                hidden_progress(quiet),
                live_status(hidden=quiet),
                activity("working"),
            ):
                if not verbose:  # those of libraries, about their own code
                    python_warnings.simplefilter("ignore")
                check_found_file(context)
                if found_file(context) is not None and not quiet:
                    say(f"using {found_file(context)}")
                command(Console(as_json, verbose, quiet, context.obj or ""), **options)
        except (Exception, KeyboardInterrupt, Terminated) as error:
            sys.exit(answer_error(error, verbose=verbose))

    return run
