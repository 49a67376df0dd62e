"""The command line: parse, call one function, print. Nothing heavy is imported before a command runs."""

import logging
import sys
from pathlib import Path
from typing import Any

import click

import onnxq
from onnxq.cli.arguments import (
    BAD_INPUT,
    FILE,
    SCORING,
    common,
    gates,
    guarded,
    hold_gates,
    limits_of,
    planning,
    print_report,
    report_files,
    reports,
    say,
    scoring,
    states,
    taken,
    task_of,
)
from onnxq.cli.config import DEFAULT, Key, read_config
from onnxq.errors import OnnxqError
from onnxq.options import (
    Effort,
    Format,
    Method,
    Mode,
    Prefer,
    QuantizeOptions,
    Rounding,
    Target,
    Technique,
    WeightType,
)
from onnxq.runtime.memory import keep_freed, loading


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(onnxq.__version__, prog_name="onnxq")
@click.option(
    "--config", type=FILE, help="Options from this file; onnxq.toml in the current folder by default."
)
@click.pass_context
def main(context: click.Context, config: Path | None) -> None:
    """Quantize ONNX models for the integer kernels of ONNX Runtime on CPUs, and prove the result.

    Exit code 0: done. 1: an accuracy gate did not hold. 2: wrong usage or bad input.
    """
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # what it warns of is said where it matters
    path = config or (DEFAULT if DEFAULT.is_file() else None)
    if path is None:
        return
    try:
        context.default_map = read_config(
            path, {name: _keys(command) for name, command in main.commands.items()}
        )
    except OnnxqError as error:
        say(f"error: {error}")
        sys.exit(BAD_INPUT)
    if config is None:
        say(f"using {path}")


def _keys(command: click.Command) -> dict[str, Key]:
    """A command's options as a file names them."""
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    keys = {name[2:]: Key(p.name or "") for p in options for name in p.opts if name.startswith("--")}
    return keys | {
        name[2:]: Key(p.name or "", opposite=True)
        for p in options
        for name in p.secondary_opts
        if name.startswith("--")
    }


@main.command()
@click.argument("model", type=FILE)
@click.option(
    "-o", "--output", type=FILE, help="File to write; <model>.int8.onnx beside the input by default."
)
@click.option(
    "--mode",
    type=click.Choice([str(m) for m in Mode]),
    default=str(Mode.STATIC),
    show_default=True,
    help="int8 with calibrated ranges, with ranges found at run time, weights of few bits alone, half-precision weights, or the best.",
)
@click.option(
    "--prefer",
    type=click.Choice([str(p) for p in Prefer]),
    default=str(Prefer.SPEED),
    show_default=True,
    help="With --mode auto: what counts.",
)
@click.option(
    "--weight-type",
    type=click.Choice([str(t) for t in WeightType]),
    default=str(WeightType.INT4),
    show_default=True,
    help="With --mode weights.",
)
@click.option(
    "--block",
    default="32",
    show_default=True,
    metavar="N|channel|tensor",
    help="With --mode weights: values that share a scale, 16 to 256.",
)
@click.option(
    "--symmetric/--affine",
    default=True,
    show_default=True,
    help="With --mode weights: blocks without or with a zero point.",
)
@click.option(
    "--rounding",
    type=click.Choice([str(r) for r in Rounding]),
    default=str(Rounding.AUTO),
    show_default=True,
    help="With --mode weights: to nearest, half-quadratic, by calibration samples (gptq), or scaled by them first (awq); auto is gptq with --calib, else hqq.",
)
@click.option(
    "--standard",
    is_flag=True,
    help="Only operators of ONNX itself, in place of this runtime's; with --mode weights opset 21.",
)
@click.option(
    "--integer-compute/--float-compute",
    default=True,
    show_default=True,
    help="With --mode weights: kernels may round activations to 8 bits, which is faster.",
)
@click.option(
    "--effort",
    type=click.Choice([str(e) for e in Effort]),
    default=str(Effort.BALANCED),
    show_default=True,
    help="How much is measured and tried to make the result accurate.",
)
@click.option(
    "--method",
    type=click.Choice([str(m) for m in Method]),
    default=str(Method.AUTO),
    show_default=True,
    help="How the range of an activation is chosen; auto compares them on held-out samples.",
)
@click.option(
    "--percentile",
    type=click.FloatRange(50, 100, min_open=True),
    default=99.99,
    show_default=True,
    help="Share of values that the percentile method keeps, in percent.",
)
@click.option(
    "--target",
    type=click.Choice([str(t) for t in Target]),
    default=str(Target.PORTABLE),
    show_default=True,
    help="CPUs on which the file must be right; vnni and arm lift the limit on weights that older x86 CPUs need.",
)
@click.option(
    "--per-channel/--per-tensor",
    default=True,
    show_default=True,
    help="One weight scale an output channel, or one a tensor.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice([str(f) for f in Format]),
    default=str(Format.QDQ),
    show_default=True,
    help="Q/DQ nodes around float operators, or integer operators.",
)
@click.option(
    "--give-back/--all-int8",
    default=True,
    show_default=True,
    help="Leave float what is expected to be faster so on the target's CPUs, or quantize all that has integer kernels.",
)
@click.option(
    "--measure",
    is_flag=True,
    help="Time nodes on this machine, in float and on integers, to find what is faster in float; the file then depends on its clock.",
)
@click.option(
    "--dynamic-lstm/--float-lstm",
    default=None,
    help="Store the weights of LSTMs as int8, their inputs quantized as they run, or leave them; by default where that is faster.",
)
@click.option(
    "--without",
    multiple=True,
    type=click.Choice([str(t) for t in Technique]),
    help="Do not use this technique.",
)
@click.option(
    "--stats",
    type=FILE,
    multiple=True,
    help="Statistics of onnxq calibrate in place of a calibration pass; several are merged.",
)
@click.option(
    "--data", type=FILE, help="Labelled samples on which --max-drop holds; those of --calib by default."
)
@click.option(
    "--keep-failed",
    is_flag=True,
    help="Write a file that fails a gate under its name, in place of NAME.rejected.onnx.",
)
@planning
@scoring
@gates
@reports
@common
@guarded
def quantize(
    as_json: bool, verbose: bool, quiet: bool, file_format: str,
    report: tuple[Path, ...], junit: Path | None, markdown: Path | None, **options: Any,
) -> None:  # fmt: skip
    """Write the int8 model of MODEL.

    \b
    Example:
      onnxq quantize model.onnx --calib data/ --method percentile
    """
    keep_freed()
    with loading("onnxq.modes.auto"):
        from onnxq.modes.auto import quantize as run
        from onnxq.report.files import check_reports, needs_details, write_reports
        from onnxq.report.text import quantize_text

    files = report_files(report, junit, markdown)
    check_reports(files)
    limits = limits_of(options)
    task = task_of(limits, options)
    chosen = QuantizeOptions(
        limits=limits,
        details=needs_details(files.values()),
        **options
        | {
            "mode": Mode(options["mode"]),
            "prefer": Prefer(options["prefer"]),
            "weight_type": WeightType(options["weight_type"]),
            "rounding": Rounding(options["rounding"]),
            "block": _block(options["block"]),
            "effort": Effort(options["effort"]),
            "without": tuple(Technique(name) for name in options["without"]),
            "method": Method(options["method"]),
            "target": Target(options["target"]),
            "format": Format(file_format),
        },
    )
    found = run(chosen, task)
    for warning in found.warnings:
        say(f"warning: {warning}")
    write_reports(found, files)
    print_report(found, quantize_text(found, verbose=verbose), as_json=as_json, quiet=quiet)
    hold_gates(found.gates)


@main.command()
@click.argument("model", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="Statistics file (.npz) to write.")
@click.option(
    "--shard",
    default="1/1",
    show_default=True,
    metavar="K/N",
    help="Only the K-th of N parts of the samples; parts are merged by quantize --stats.",
)
@planning
@common
@guarded
def calibrate(output: Path, shard: str, as_json: bool, verbose: bool, quiet: bool, **options: Any) -> None:
    """Write the statistics of MODEL's activations, to be used by quantize --stats.

    \b
    Example:
      onnxq calibrate model.onnx --calib data/ -o stats.npz
      onnxq quantize model.onnx --stats stats.npz --method mse
    """
    keep_freed()
    with loading("onnxq.pipeline"):
        from onnxq.pipeline import calibrate as run

    statistics = run(QuantizeOptions(**options), output, _shard(shard))
    ranges = {name: (sketch.minimum, sketch.maximum) for name, sketch in statistics.sketches.items()}
    summary = {
        "output": str(output),
        "samples": statistics.samples,
        "model_sha256": statistics.model,
        "ranges": ranges,
    }
    print_report(
        summary,
        f"wrote {output}: {len(ranges)} tensors, {statistics.samples} samples",
        as_json=as_json,
        quiet=quiet,
    )


def _block(text: str) -> str:
    if text not in ("channel", "tensor", "16", "32", "64", "128", "256"):
        raise OnnxqError(f"--block {text}: choose 16, 32, 64, 128, 256, channel or tensor")
    return text


def _shard(text: str) -> tuple[int, int]:
    k, slash, n = text.partition("/")
    if not slash or not k.isdigit() or not n.isdigit() or not 1 <= int(k) <= int(n):
        raise OnnxqError(f"--shard {text}: expected K/N with 1 <= K <= N, for example 2/4")
    return int(k), int(n)


@main.command("eval")
@click.argument("model", type=FILE)
@click.argument("others", type=FILE, nargs=-1)
@click.option(
    "--data",
    type=FILE,
    required=True,
    help="Folder with samples, or module:function, as for quantize --calib.",
)
@click.option("--preprocess", metavar="PRESET|FILE", help="How a file becomes an input.")
@scoring
@click.option("--output", metavar="NAME", help="Output that counts; the first by default.")
@states
@click.option("--samples", type=click.IntRange(1), help="Use at most so many, evenly spaced; all by default.")
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Threads while latency is measured.",
)
@click.option(
    "--latency/--no-latency", default=True, show_default=True, help="Measure latency, the models in turns."
)
@click.option(
    "--significant",
    is_flag=True,
    help="With --max-drop: only a drop that the paired test calls more than chance fails.",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    help="Gate: share of decisions that are the float model's.",
)
@click.option(
    "--baseline",
    type=FILE,
    help="JSON of an earlier eval: differences are shown, --max-drop holds since then too.",
)
@gates
@reports
@common
@guarded
def evaluate(
    model: Path, others: tuple[Path, ...], data: Path, as_json: bool, verbose: bool, quiet: bool,
    report: tuple[Path, ...], junit: Path | None, markdown: Path | None, **options: Any,
) -> None:  # fmt: skip
    """Compare the float MODEL with others, over labelled or unlabelled samples.

    \b
    Example:
      onnxq eval model.onnx model.int8.onnx --data eval/ --labels eval/labels.csv --max-drop 0.5
    """
    from onnxq.evaluation.evaluate import EvalOptions
    from onnxq.evaluation.evaluate import evaluate as run
    from onnxq.evaluation.scores.score import ScoreOptions
    from onnxq.report.files import check_reports, write_reports
    from onnxq.report.text import eval_text

    files = report_files(report, junit, markdown)
    check_reports(files)
    limits = limits_of(options)
    score = ScoreOptions(output=options.pop("output"), **taken(options, SCORING))
    found = run(model, others, data, EvalOptions(score=score, limits=limits, **options))
    for warning in found.warnings:
        say(f"warning: {warning}")
    write_reports(found, files)
    print_report(found, eval_text(found, verbose=verbose), as_json=as_json, quiet=quiet)
    hold_gates(found.gates)


@main.command()
@click.argument("model", type=FILE)
@click.argument("other", metavar="INT8", type=FILE)
@click.option("--data", type=FILE, required=True, help="Samples, as for quantize --calib; a few are used.")
@click.option("--preprocess", metavar="PRESET|FILE", help="How a file becomes an input.")
@click.option("--report", type=FILE, multiple=True, help="Also write FILE.html or .json.")
@common
@guarded
def debug(
    model: Path,
    other: Path,
    data: Path,
    preprocess: str | None,
    report: tuple[Path, ...],
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Show where INT8 leaves its float MODEL: the error behind each layer, values that are cut, weights that saturate.

    \b
    Example:
      onnxq debug model.onnx model.int8.onnx --data data/
    """
    from onnxq.evaluation.debugging import debug as run
    from onnxq.report.files import check_reports, write_reports
    from onnxq.report.text import debug_text

    files = report_files(report, None, None)
    check_reports(files, debug=True)
    found = run(model, other, data, preprocess)
    write_reports(found, files)
    print_report(found, debug_text(found, verbose=verbose), as_json=as_json, quiet=quiet)


@main.command()
@click.argument("models", type=FILE, nargs=-1, required=True)
@click.option(
    "--data", type=FILE, help="Samples to run on, as for quantize --calib; random values by default."
)
@click.option("--preprocess", metavar="PRESET|FILE", help="How a file becomes an input.")
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=1,3,224,224",
    help="Shape of an input that is open; open sizes are 1 by default.",
)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1),
    multiple=True,
    default=(1,),
    show_default=True,
    help="Batch size; several are measured.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    multiple=True,
    default=(1,),
    show_default=True,
    help="Threads; several numbers are measured.",
)
@click.option(
    "--runs", type=click.IntRange(5), default=200, show_default=True, help="Most runs of each model."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="No further turn begins after so long.",
)
@click.option(
    "--tokens",
    type=click.IntRange(1),
    help="Language models: generate so many tokens after the first sample.",
)
@click.option(
    "--min-speedup", type=float, help="Gate: latency of the first model / each other's, at every setting."
)
@click.option("--max-size", type=float, help="Gate: size of each file / the first one's.")
@common
@guarded
def bench(models: tuple[Path, ...], as_json: bool, verbose: bool, quiet: bool, **options: Any) -> None:
    """Measure MODELS against the first of them, in turns: latency, throughput, load time, memory, size.

    \b
    Example:
      onnxq bench model.onnx model.int8.onnx --data data/ --threads 1 --threads 2
    """
    from onnxq.evaluation.benchmark import BenchOptions
    from onnxq.evaluation.benchmark import bench as run
    from onnxq.report.text import bench_text

    shapes = dict(_shape(text) for text in options.pop("shapes"))
    limits = limits_of(options)
    found = run(models, BenchOptions(shapes=shapes, limits=limits, **options))
    print_report(found, bench_text(found), as_json=as_json, quiet=quiet)
    hold_gates(found.gates)


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, sizes = text.rpartition("=")
    if not equals or not all(size.isdigit() for size in sizes.split(",")):
        raise OnnxqError(f"--shape {text}: expected NAME=1,3,224,224")
    return name, tuple(int(size) for size in sizes.split(","))


@main.command()
@click.argument("model", type=FILE)
@common
@guarded
def inspect(model: Path, as_json: bool, verbose: bool, quiet: bool) -> None:
    """Show what is in MODEL, what dominates it, what would be int8, and why the rest would not.

    \b
    Example:
      onnxq inspect model.onnx
    """
    from onnxq.evaluation.inspection import inspect_model
    from onnxq.report.text import inspect_text

    report = inspect_model(model)
    print_report(report, inspect_text(report, verbose=verbose), as_json=as_json, quiet=quiet)
