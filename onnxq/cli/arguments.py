"""What the commands share: groups of options, errors as one line, what is printed and how a command ends."""

import functools
import logging
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxq.errors import OnnxqError
from onnxq.evaluation.gates import Gate
from onnxq.options import Limits

if TYPE_CHECKING:
    from onnxq.search.accuracy_target import Task

FILE = click.Path(path_type=Path)
BAD_INPUT, GATE_FAILED = 2, 1


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Print an error that the user can cause as one line and exit with 2."""

    @functools.wraps(command)
    def run(*args: Any, verbose: bool = False, **kwargs: Any) -> None:
        logging.getLogger("onnx_ir").addHandler(logging.NullHandler())  # its warnings are about its own steps
        before = signal.signal(signal.SIGTERM, _terminated)
        try:
            command(*args, verbose=verbose, **kwargs)
        except OnnxqError as error:
            if verbose:
                traceback.print_exc()
            say(f"error: {error}")
            sys.exit(BAD_INPUT)
        except KeyboardInterrupt:
            say("error: interrupted, nothing was written")
            sys.exit(130)
        finally:
            signal.signal(signal.SIGTERM, before)

    return run


def _terminated(number: int, _: object) -> None:
    """End as an error does, so that nothing is left in the output's or the temporary folder."""
    sys.exit(128 + number)


def say(line: str) -> None:
    """Print a line to stderr."""
    click.echo(f"onnxq: {line}", err=True)


def options_of(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator, in this order."""
    return lambda command: functools.reduce(lambda inner, option: option(inner), reversed(options), command)


common = options_of(
    click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
    click.option("-v", "--verbose", is_flag=True, help="Say more; show the traceback of an error."),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
)

states = click.option(
    "--state",
    "states",
    multiple=True,
    metavar="INPUT=OUTPUT",
    help="An output that is the next sample's input; found by name and shape, or in the data, by default; none: there is no such.",
)

gates = options_of(
    click.option("--min-sqnr", type=float, help="Gate: least SQNR of the outputs against float, dB."),
    click.option(
        "--min-speedup",
        type=float,
        help="Gate: float latency / the file's, one thread, in turns; 1.2 is a fifth faster.",
    ),
    click.option(
        "--max-size", type=float, help="Gate: the file's size / the float model's; 0.3 is three tenths."
    ),
)

scoring = options_of(
    click.option(
        "--labels",
        metavar="FILE|folders",
        help="CSV with the header file,label; or the folders that samples lie in are the classes.",
    ),
    click.option(
        "--metric",
        metavar="NAME",
        help="classification (where there are labels), regression, embedding, segmentation, detection, text, perplexity, or module:function.",
    ),
    click.option(
        "--class-axis",
        type=int,
        help="The output's axis of classes; the last by default, the second for segmentation.",
    ),
    click.option(
        "--decoder",
        metavar="MODULE:FUNCTION",
        help="Makes boxes (detection; also the name of a layout, yolov8 for example) or a text of the outputs.",
    ),
    click.option("--charset", type=FILE, help="One character a line: reads CTC outputs for --metric text."),
    click.option("--ignore-spaces", is_flag=True, help="Compare texts without spaces."),
    click.option(
        "--pool",
        type=click.Choice(["mean", "first", "none"]),
        default="mean",
        show_default=True,
        help="How token embeddings become one.",
    ),
    click.option(
        "--max-drop",
        type=float,
        help="Gate: the first metric may fall by so much: points of shares, else its own unit.",
    ),
)

reports = options_of(
    click.option(
        "--report",
        type=FILE,
        multiple=True,
        help="Also write FILE.html, .json, .md, .xml (JUnit) or .png (plots).",
    ),
    click.option("--junit", type=FILE, help="Also write the gates as JUnit XML."),
    click.option("--markdown", type=FILE, help="Also write a summary for a pull request or a job."),
)

planning = options_of(
    click.option(
        "--calib",
        type=FILE,
        help="Samples: a folder of files (see the documentation for kinds), or module:function.",
    ),
    click.option(
        "--samples",
        type=click.IntRange(1),
        default=200,
        show_default=True,
        help="Use at most so many, evenly spaced.",
    ),
    click.option(
        "--preprocess",
        metavar="PRESET|FILE",
        help="How a file becomes an input: a preset such as imagenet or guess, or a TOML file with [preprocess].",
    ),
    states,
    click.option(
        "--include", multiple=True, metavar="NAME", help="Quantize only these nodes (names or globs)."
    ),
    click.option(
        "--exclude", multiple=True, metavar="NAME", help="Leave these nodes float (names or globs)."
    ),
    click.option("--op-types", multiple=True, metavar="TYPE", help="Quantize only operators of these types."),
    click.option(
        "--allow-nonfinite", is_flag=True, help="Leave NaN and infinite values out of the statistics."
    ),
    click.option("--force", is_flag=True, help="Overwrite the output."),
)


def report_files(report: tuple[Path, ...], junit: Path | None, markdown: Path | None) -> dict[Path, str]:
    """The files to write, with their kind."""
    files = {path: path.suffix.lower() for path in report}
    return files | ({junit: ".xml"} if junit else {}) | ({markdown: ".md"} if markdown else {})


def limits_of(options: dict[str, Any]) -> Limits:
    """The gates among a command's options, which are taken out of them."""
    return Limits(**{each.name: options.pop(each.name) for each in fields(Limits) if each.name in options})


SCORING = ("class_axis", "decoder", "charset", "ignore_spaces", "pool")


def taken(options: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Options that are taken out of a command's."""
    return {key: options.pop(key) for key in keys}


def task_of(limits: Limits, options: dict[str, Any]) -> "Task | None":
    """What --max-drop of quantize holds on; the options about it are taken out."""
    from onnxq.evaluation.evaluate import EvalOptions
    from onnxq.evaluation.scores.score import ScoreOptions
    from onnxq.search.accuracy_target import Task

    score = ScoreOptions(**taken(options, SCORING))
    data, labels, metric = (options.pop(key) for key in ("data", "labels", "metric"))
    if limits.max_drop is None:
        if data or labels or metric:
            raise OnnxqError(
                "--data, --labels and --metric are for --max-drop: say by how much the metric may fall"
            )
        return None
    if options["calib"] is None:
        raise OnnxqError("--max-drop tries several files on samples: give a folder with --calib")
    return Task(
        data or options["calib"], EvalOptions(labels, metric, score, preprocess=options["preprocess"])
    )


def print_report(report: Any, text: str, *, as_json: bool, quiet: bool) -> None:
    """As text, as JSON, or not at all."""
    if as_json:
        from onnxq.report.files import as_text

        click.echo(as_text(report))
    elif not quiet:
        click.echo(text)


def hold_gates(gates: list[Gate]) -> None:
    """Exit with 1 where one does not hold."""
    failed = [gate.line for gate in gates if not gate.holds]
    for line in failed:
        say(f"gate failed: {line}")
    if failed:
        sys.exit(GATE_FAILED)
