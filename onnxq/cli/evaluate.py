"""`onnxq eval`, `onnxq debug` and `onnxq inspect`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxq.cli.console import Console, exit_on_failed_gate, with_console
from onnxq.cli.groups import GroupedCommand, OptionGroup, option
from onnxq.cli.interrupts import loading_modules
from onnxq.cli.shared_options import (
    SAMPLES,
    cluster_option,
    force_option,
    gate_options,
    input_files,
    metric_options,
    parse_shapes,
    pop_limits,
    pop_report_files,
    pop_score_options,
    preprocess_option,
    report_options,
    shape_option,
    state_option,
    target_option,
)
from onnxq.cli.values import COUNT, FILE, REPORT, THREADS, Number
from onnxq.errors import OnnxqError

if TYPE_CHECKING:
    from onnxq.evaluation.evaluate import EvalOptions


@click.command(
    "eval",
    cls=GroupedCommand,
    examples=[
        "onnxq eval model.onnx model.int8.onnx --data eval/ --labels eval/labels.csv --max-drop 0.5",
        "onnxq eval exported/ int8/ --data texts/ --min-agreement 0.95",
    ],
    page="docs/data.md",
)
@click.argument("model", type=FILE)
@click.argument("others", type=FILE, nargs=-1)
@option(
    OptionGroup.DATA,
    "--data",
    type=FILE,
    required=True,
    function=True,
    help=f"Compare on these samples: {SAMPLES}.",
)
@option(
    OptionGroup.DATA,
    "--samples",
    type=COUNT,
    metavar="N",
    help="Use at most N samples, evenly spaced; by default all.",
)
@option(
    OptionGroup.DATA,
    "--tokens",
    type=COUNT,
    metavar="N",
    help="Generate at most N tokens from a sample, for folders that generate text; 32 by default.",
)
@preprocess_option
@state_option
@option(
    OptionGroup.SPEED,
    "--latency/--no-latency",
    default=True,
    help="Measure the latency of the models in turns, or skip that.",
)
@option(
    OptionGroup.SPEED,
    "--threads",
    type=THREADS,
    default=1,
    metavar="N",
    help="Measure latency with N threads.",
)
@cluster_option
@report_options
@force_option
@gate_options
@option(
    OptionGroup.GATES,
    "--min-agreement",
    type=Number(0, 1),
    metavar="SHARE",
    help="Require that at least this share of decisions (0 to 1) agrees with the float model's.",
)
@option(
    OptionGroup.GATES,
    "--significant",
    is_flag=True,
    help="Fail --max-drop only where a paired test finds the drop significant.",
)
@option(
    OptionGroup.GATES,
    "--baseline",
    type=FILE,
    metavar="FILE",
    help="Compare with the JSON report of an earlier eval; --max-drop then limits the drop since that too.",
)
@metric_options
@option(
    OptionGroup.METRIC,
    "--output",
    metavar="NAME",
    help="Score this output of the model; by default the first.",
)
@with_console
def evaluate(
    console: Console, model: Path, others: tuple[Path, ...], output: str | None, force: bool, **options: Any
) -> None:
    """Compare the float MODEL with OTHERS on samples.

    The report shows metrics of the task (with labels), agreement, SQNR, size and latency.

    Folders of exporters are compared end to end: the tokens that they generate from texts, images or sounds,
    word and character errors (with labels), and tokens per second.
    """
    with loading_modules():
        from onnxq.evaluation.evaluate import EvalOptions
        from onnxq.evaluation.evaluate import evaluate as run
        from onnxq.evaluation.scores.score import ScoreOptions
        from onnxq.report.files import check_reports, write_reports
        from onnxq.report.text import eval_text

    files = pop_report_files(options)
    check_reports(files, [model, *others, *input_files(options)], force=force)
    data, tokens = options.pop("data"), options.pop("tokens")
    limits = pop_limits(options)
    score = ScoreOptions(output=output, **pop_score_options(options))
    chosen = EvalOptions(score=score, limits=limits, **options)
    if tokens is not None and not model.is_dir():
        raise OnnxqError("--tokens is of folders that generate text: see onnxq bench --tokens for a model")
    if model.is_dir():
        _evaluate_folders(console, [model, *others], data, chosen, tokens, plain=not files)
        return
    report = console.signed(run(model, others, data, chosen))
    console.warn(report.warnings)
    write_reports(report, files, force=force)
    console.show(report, lambda: eval_text(report, verbose=console.verbose, width=console.width))
    exit_on_failed_gate(report.gates)


def _evaluate_folders(
    console: Console,
    folders: list[Path],
    data: Path,
    chosen: "EvalOptions",
    tokens: int | None,
    *,
    plain: bool,
) -> None:
    """Compare folders with the first one.

    Raises:
        OnnxqError: an option is of single models only.
    """
    with loading_modules():
        from onnxq.exports.evaluation import TOKENS, evaluate_folders
        from onnxq.exports.text import folder_eval_text

    if not plain:
        raise OnnxqError(f"{folders[0]}: is a folder: reports in files are of single models: use --json")
    report = evaluate_folders(folders, data, chosen, tokens or TOKENS)
    console.warn(report.warnings)
    console.show(report, lambda: folder_eval_text(report, verbose=console.verbose, width=console.width))
    exit_on_failed_gate(report.gates)


@click.command(
    cls=GroupedCommand,
    examples=["onnxq debug model.onnx model.int8.onnx --data data/"],
    page="docs/troubleshooting.md",
)
@click.argument("model", type=FILE)
@click.argument("other", metavar="INT8", type=FILE)
@option(
    OptionGroup.DATA,
    "--data",
    type=FILE,
    required=True,
    function=True,
    help=f"Compare on a few of these samples: {SAMPLES}.",
)
@preprocess_option
@option(
    OptionGroup.OUTPUT,
    "--report",
    type=REPORT,
    multiple=True,
    writes=True,
    metavar="FILE",
    help="Also write a report of the kind that the suffix names: .html or .json.",
)
@force_option
@with_console
def debug(console: Console, model: Path, other: Path, **options: Any) -> None:
    """Show where the model INT8 deviates from its float MODEL.

    The report lists the error of each layer, activations that are clipped, and weights that saturate.
    """
    with loading_modules():
        from onnxq.evaluation.debugging import debug as run
        from onnxq.report.files import check_reports, write_reports
        from onnxq.report.text import debug_text

    files = pop_report_files(options)
    check_reports(files, [model, other, *input_files(options)], force=options["force"], debug=True)
    report = console.signed(run(model, other, options["data"], options["preprocess"]))
    write_reports(report, files, force=options["force"])
    console.show(report, lambda: debug_text(report, verbose=console.verbose, width=console.width))


@click.command(
    cls=GroupedCommand,
    examples=["onnxq inspect model.onnx", "onnxq inspect model.onnx --shape input=1,3,224,224"],
    page="docs/quantization.md",
)
@click.argument("model", type=FILE)
@option(
    OptionGroup.DATA,
    "--data",
    type=FILE,
    function=True,
    help=f"Take the shapes from the first of these samples: {SAMPLES}.",
)
@preprocess_option
@shape_option
@target_option
@with_console
def inspect(console: Console, model: Path, shapes: tuple[str, ...], **options: Any) -> None:
    """Show the operators of MODEL, and which nodes would become int8.

    The report also lists the operators with most MACs, and the reason for each node that would stay in float.
    With --shape or --data, the cost model says what stays float because that is faster, and what int8 would
    gain.
    """
    with loading_modules():
        from onnxq.evaluation.inspection import InspectOptions, inspect_model
        from onnxq.report.text import inspect_text

    chosen = InspectOptions(parse_shapes(shapes), **options)
    report = inspect_model(model, chosen)
    console.show(report, lambda: inspect_text(report, verbose=console.verbose, width=console.width))
