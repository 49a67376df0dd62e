"""Output of a command: its report on stdout, messages on stderr, errors as one line, the exit code."""

import functools
import logging
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from onnxq.cli.groups import OptionGroup, option
from onnxq.errors import OnnxqError
from onnxq.evaluation.gates import Gate
from onnxq.runtime.interruption import stopping_runs

BAD_INPUT, GATE_FAILED, INTERRUPTED = 2, 1, 130
"""Exit codes."""
INTERRUPTION = "error: interrupted, nothing was written"


@dataclass(frozen=True)
class Console:
    """How a command reports.

    as_json  print the report as JSON
    verbose  print more, and the traceback of an error
    quiet    print errors and warnings only
    """

    as_json: bool
    verbose: bool
    quiet: bool

    def show(self, report: Any, text: str) -> None:
        """Print a report on stdout, as JSON or as its text."""
        if self.as_json:
            from onnxq.report.files import as_text

            click.echo(as_text(report))
        elif not self.quiet:
            click.echo(text)

    def warn(self, warnings: list[str]) -> None:
        """Print warnings on stderr."""
        for warning in warnings:
            say(f"warning: {warning}")


def say(line: str) -> None:
    """Print a line on stderr."""
    click.echo(f"onnxq: {line}", err=True)


def exit_on_failed_gate(gates: list[Gate]) -> None:
    """Print each gate that does not hold, and exit with 1 if there is one."""
    failed = [gate.line for gate in gates if not gate.holds]
    for line in failed:
        say(f"gate failed: {line}")
    if failed:
        sys.exit(GATE_FAILED)


def with_console(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options about printing to a command, and pass them on as a `Console`.

    An error that the user can cause becomes one line on stderr and exit code 2.
    """

    @option(OptionGroup.OUTPUT, "--json", "as_json", is_flag=True, help="Print the report as JSON.")
    @option(
        OptionGroup.GENERAL,
        "-v",
        "--verbose",
        is_flag=True,
        help="Print more details, and the traceback of an error.",
    )
    @option(OptionGroup.GENERAL, "-q", "--quiet", is_flag=True, help="Print only warnings and errors.")
    @functools.wraps(command)
    def run(*, as_json: bool, verbose: bool, quiet: bool, **options: Any) -> None:
        logging.getLogger("onnx_ir").addHandler(logging.NullHandler())  # its warnings concern its own passes
        previous = signal.signal(signal.SIGTERM, _terminate)
        try:
            with stopping_runs(f"onnxq: {INTERRUPTION}"):
                command(Console(as_json, verbose, quiet), **options)
        except OnnxqError as error:
            if verbose:
                traceback.print_exc()
            say(f"error: {error}")
            sys.exit(BAD_INPUT)
        except KeyboardInterrupt:
            say(INTERRUPTION)
            sys.exit(INTERRUPTED)
        finally:
            signal.signal(signal.SIGTERM, previous)

    return run


def _terminate(number: int, _: object) -> None:
    """Exit through the `finally` blocks, which remove temporary files."""
    sys.exit(128 + number)
