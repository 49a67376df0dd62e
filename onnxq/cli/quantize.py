"""`onnxq quantize`."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from onnxq.cli.console import Console, exit_on_failed_gate, with_console
from onnxq.cli.groups import GroupedCommand, OptionGroup, choice, completing, name_of, option
from onnxq.cli.interrupts import loading_modules
from onnxq.cli.shared_options import (
    cluster_option,
    combined,
    force_option,
    gate_options,
    input_files,
    metric_options,
    node_options,
    pop_limits,
    pop_report_files,
    pop_score_options,
    report_options,
    sample_options,
    target_option,
)
from onnxq.cli.values import FILE, TEXT_OR_FILE, Number
from onnxq.errors import OnnxqError
from onnxq.options import (
    ActivationType,
    Effort,
    Format,
    Limits,
    Method,
    Mode,
    Prefer,
    QuantizeOptions,
    Rounding,
    Technique,
    WeightType,
    output_file,
)

if TYPE_CHECKING:
    from onnxq.search.task import Task

ENUMS: dict[str, type[StrEnum]] = {
    "prefer": Prefer,
    "weight_type": WeightType,
    "activation_type": ActivationType,
    "effort": Effort,
}
"""Parameters whose texts are values of an enum."""
BLOCKS = ("16", "32", "64", "128", "256", "channel", "tensor")

placement_options = combined(
    target_option,
    option(
        OptionGroup.MODE,
        "--per-channel/--per-tensor",
        default=QuantizeOptions.per_channel,
        help="Use one weight scale per output channel, or one per tensor.",
    ),
    node_options,
)

mode_options = combined(
    option(
        OptionGroup.MODE,
        "--mode",
        **name_of(Mode, QuantizeOptions.mode),
        help="Quantize to int8 with calibrated ranges (static) or ranges computed at run time (dynamic), "
        "quantize weights only (weights), store weights in half precision (fp16), or try all and keep the "
        "best (auto).",
    ),
    option(
        OptionGroup.MODE,
        "--prefer",
        **choice(QuantizeOptions.prefer),
        help="Choose the best result of --mode auto by speed, size or accuracy.",
    ),
    option(
        OptionGroup.MODE,
        "--activation-type",
        **choice(QuantizeOptions.activation_type),
        help="Store activations in 8 bits, or in 16 bits as QDQ of opset 21 for other engines (int16 with "
        "zero point 0): this runtime's CPU kernels compute those in float, no faster than the float model.",
    ),
    placement_options,
)

accuracy_options = combined(
    option(
        OptionGroup.ACCURACY,
        "--effort",
        **choice(QuantizeOptions.effort),
        help="Correct biases, and try SmoothQuant and ranges at run time (fast); try all techniques and fall "
        "back to float where needed (balanced); or also finetune and try weights rounded to nearest, on more "
        "samples (best).",
    ),
    option(
        OptionGroup.ACCURACY,
        "--method",
        **name_of(Method, QuantizeOptions.method),
        help="Choose the clipping range of activations by this method; auto compares all on validation "
        "samples, mse and percentile alone with --effort fast.",
    ),
    option(
        OptionGroup.ACCURACY,
        "--percentile",
        type=Number(50, 100, min_open=True),
        default=QuantizeOptions.percentile,
        metavar="PERCENT",
        help="Keep this share of the values (50 to 100 percent) with --method percentile.",
    ),
    option(
        OptionGroup.ACCURACY,
        "--without",
        multiple=True,
        metavar="TECHNIQUE",
        shell_complete=completing(Technique),
        help=f"Disable this accuracy technique: {', '.join(Technique)}; ranges-at-run-time quantizes the "
        "inputs of MatMul and Gemm layers dynamically, split divides a wide-range LSTM input into a coarse "
        "and a fine part, and finetuning belongs to --effort best.",
    ),
)

speed_options = combined(
    option(
        OptionGroup.SPEED,
        "--skip-slow-nodes/--all-int8",
        aliases=["--give-back"],
        default=QuantizeOptions.skip_slow_nodes,
        help="Keep nodes in float where float is expected to be faster on the target, or quantize all nodes "
        "that have integer kernels; the fallback for accuracy applies to both.",
    ),
    option(
        OptionGroup.SPEED,
        "--measure",
        is_flag=True,
        help="Time nodes on this machine instead of using the target's cost model; the file then is not "
        "reproducible.",
    ),
    option(
        OptionGroup.SPEED,
        "--keep-int8",
        is_flag=True,
        help="Write int8 also where it is slower or larger than float on this machine, or neither faster nor "
        "smaller; by default the float model with half-precision weights then.",
    ),
    option(
        OptionGroup.SPEED,
        "--dynamic-lstm/--float-lstm",
        default=QuantizeOptions.dynamic_lstm,
        help="Store LSTM weights as int8 and quantize LSTM inputs at run time, or keep LSTMs in float; by "
        "default int8 where it is faster.",
    ),
    cluster_option,
)

block_options = combined(
    option(
        OptionGroup.WEIGHT_ONLY,
        "--block",
        default=QuantizeOptions.block,
        metavar="N|channel|tensor",
        help="One scale per block of N weights (16, 32, 64, 128 or 256), per channel or per tensor.",
    ),
    option(
        OptionGroup.WEIGHT_ONLY,
        "--symmetric/--affine",
        default=QuantizeOptions.symmetric,
        help="Store blocks without or with a zero point.",
    ),
    option(
        OptionGroup.WEIGHT_ONLY,
        "--integer-compute/--float-compute",
        default=QuantizeOptions.integer_compute,
        help="Let kernels round activations to 8 bits, which is faster, or keep activations in float.",
    ),
)

weight_only_options = combined(
    option(
        OptionGroup.WEIGHT_ONLY,
        "--weight-type",
        **choice(QuantizeOptions.weight_type),
        help="Store weights as this type; bfloat16, for other engines, is widened on load: no faster here.",
    ),
    block_options,
    option(
        OptionGroup.WEIGHT_ONLY,
        "--rounding",
        **name_of(Rounding, QuantizeOptions.rounding),
        help="Round to nearest (rtn), by half-quadratic quantization (hqq), or by calibration samples (gptq, "
        "awq); auto is gptq with --calib and hqq without.",
    ),
)

model_file_options = combined(
    option(
        OptionGroup.OUTPUT,
        "-o",
        "--output",
        type=TEXT_OR_FILE,
        writes=True,
        metavar="FILE",
        help="Write the model to this file, or into this folder if the name ends in a slash; by default to "
        "NAME.int8.onnx beside MODEL (.int4, .fp16 and so on in other modes).",
    ),
    force_option,
    option(
        OptionGroup.OUTPUT,
        "--format",
        **name_of(Format, QuantizeOptions.format),
        help="Write Q/DQ nodes around float operators (qdq), or integer operators (qoperator).",
    ),
    option(
        OptionGroup.OUTPUT,
        "--standard",
        is_flag=True,
        help="Write only operators of ONNX itself, none of ONNX Runtime's own; --mode weights then writes "
        "opset 21.",
    ),
)

keep_failed_option = option(
    OptionGroup.GATES,
    "--keep-failed",
    is_flag=True,
    help="Write a model that fails a gate to the output file, not to NAME.rejected.onnx.",
)

metric_data_option = option(
    OptionGroup.METRIC,
    "--data",
    type=FILE,
    function=True,
    help="Measure the metric of --max-drop on these samples; by default on those of --calib.",
)


@click.command(
    cls=GroupedCommand,
    examples=[
        "onnxq quantize model.onnx --calib data/ -o model.int8.onnx",
        "onnxq quantize exported/ --calib texts/ -o exported-int8/",
    ],
    page="docs/quantization.md",
)
@click.argument("model", type=FILE)
@sample_options
@option(
    OptionGroup.DATA,
    "--stats",
    type=FILE,
    multiple=True,
    metavar="FILE",
    help="Use statistics of onnxq calibrate instead of a calibration pass; several files are merged.",
)
@mode_options
@accuracy_options
@speed_options
@weight_only_options
@model_file_options
@report_options
@gate_options
@keep_failed_option
@metric_data_option
@metric_options
@with_console
def quantize(console: Console, **options: Any) -> None:
    """Quantize MODEL and write the result to a new file.

    A folder of models, as exporters write it, is quantized to the folder of -o: each model in the mode that
    suits it, under its name, and all other files copied.

    By default, clipping ranges, techniques and nodes in float are chosen by comparing the outputs with the
    float model's on validation samples.
    """
    from onnxq.runtime.memory import loading, reuse_freed_memory

    reuse_freed_memory()
    with loading_modules(), loading("onnxq.pipeline"):
        from onnxq.graph.files import check_target
        from onnxq.pipeline import quantize as run
        from onnxq.report.files import check_reports, needs_details, write_reports
        from onnxq.report.quantize_text import quantize_text

    files, output = pop_report_files(options), options.pop("output")
    inputs = input_files(options)
    limits = pop_limits(options)
    task = pop_task(limits, options)
    check_block(options["block"])
    options |= {name: kind(options[name]) for name, kind in ENUMS.items()}
    chosen = QuantizeOptions(limits=limits, details=needs_details(files.values()), **options)
    if chosen.model.is_dir():
        _quantize_folder(console, chosen, output, plain=not files and task is None)
        return
    if output is not None:
        chosen = replace(chosen, output=output_file(output, chosen.default_name))
    check_target(chosen.destination, inputs, force=chosen.force)
    check_reports(files, inputs, output=chosen.destination, force=chosen.force)
    report = console.signed(run(chosen, task))
    console.warn(report.warnings)
    write_reports(report, files, force=chosen.force)
    console.show(report, lambda: quantize_text(report, verbose=console.verbose, width=console.width))
    exit_on_failed_gate(report.gates)


def _quantize_folder(console: Console, chosen: QuantizeOptions, output: str | None, *, plain: bool) -> None:
    """Quantize the models of a folder.

    Raises:
        OnnxqError: an option is of single models only.
    """
    with loading_modules():
        from onnxq.exports.folder import quantize_folder
        from onnxq.exports.text import folder_text

    if not plain:
        raise OnnxqError(
            f"{chosen.model}: is a folder: --report, --junit, --markdown and --max-drop are of single models"
        )
    named = click.get_current_context().get_parameter_source("mode") is not ParameterSource.DEFAULT
    report = quantize_folder(
        replace(chosen, output=None if output is None else Path(output)), own_mode=not named
    )
    console.warn(report.warnings)
    console.show(report, lambda: folder_text(report, width=console.width))
    exit_on_failed_gate(report.gates)


def pop_task(limits: Limits, options: dict[str, Any], *, labels_train: bool = False) -> "Task | None":
    """Remove `metric_options` and return the task of --max-drop; None without --max-drop.

    Args:
        limits: the gates.
        options: options of the command.
        labels_train: whether --labels has another use, too: it may stand alone, and belongs to --calib.

    Raises:
        OnnxqError: --max-drop has no calibration samples, or its options stand alone.
    """
    from onnxq.evaluation.evaluate import EvalOptions
    from onnxq.evaluation.scores.score import ScoreOptions
    from onnxq.search.task import Task

    score = ScoreOptions(**pop_score_options(options))
    data, labels, metric = (options.pop(name) for name in ("data", "labels", "metric"))
    if limits.max_drop is None:
        if data or metric or (labels and not labels_train):
            options_of_it = (
                "--data and --metric have" if labels_train else "--data, --labels and --metric have"
            )
            raise OnnxqError(f"{options_of_it} no effect without --max-drop: add --max-drop")
        return None
    if labels_train and labels and data:
        raise OnnxqError(
            "--labels belongs to the samples of --calib: leave --data out, and use onnxq eval for others"
        )
    if options["calib"] is None:
        raise OnnxqError("--max-drop compares several models on samples: give a folder with --calib")
    return Task(
        data or options["calib"], EvalOptions(labels, metric, score, preprocess=options["preprocess"])
    )


def check_block(text: str) -> None:
    """Raise an `OnnxqError` unless the value of --block is one of `BLOCKS`."""
    if text not in BLOCKS:
        raise OnnxqError(f"--block {text}: choose 16, 32, 64, 128, 256, channel or tensor")
