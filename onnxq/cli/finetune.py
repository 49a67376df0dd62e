"""`onnxq finetune`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from onnxq.cli.console import Console, exit_on_failed_gate, with_console
from onnxq.cli.groups import GroupedCommand, OptionGroup, option
from onnxq.cli.interrupts import loading_modules
from onnxq.cli.quantize import (
    ENUMS,
    accuracy_options,
    block_options,
    check_block,
    keep_failed_option,
    metric_data_option,
    model_file_options,
    placement_options,
    pop_task,
    speed_options,
)
from onnxq.cli.shared_options import (
    combined,
    gate_options,
    input_files,
    metric_options,
    pop_limits,
    pop_report_files,
    report_options,
    sample_options,
)
from onnxq.cli.values import COUNT, FILE, REPORT, Number
from onnxq.errors import OnnxqError
from onnxq.options import FinetuneOptions, Mode, QuantizeOptions, WeightType, output_file
from onnxq.runtime.memory import loading, reuse_freed_memory

finetuned_mode_options = combined(
    option(
        OptionGroup.MODE,
        "--mode",
        type=click.Choice([str(Mode.STATIC), str(Mode.WEIGHTS)]),
        default=str(QuantizeOptions.mode),
        help="Train int8 weights and activations (static), or weights in blocks of 4 or 8 bits alone "
        "(weights).",
    ),
    placement_options,
)

finetuned_weight_options = combined(
    option(
        OptionGroup.WEIGHT_ONLY,
        "--weight-type",
        type=click.Choice([str(WeightType.INT4), str(WeightType.INT8)]),
        default=str(QuantizeOptions.weight_type),
        help="Store weights as this type with --mode weights.",
    ),
    block_options,
)

training_options = combined(
    option(
        OptionGroup.TRAINING,
        "--weight-bits",
        type=click.Choice(["8", "6", "4"]),
        metavar="[8|6|4]",
        help="Give weights so many bits with --mode static, stored as int8; 8 by default, or the last of "
        "--bits.",
    ),
    option(
        OptionGroup.TRAINING,
        "--bits",
        metavar="N,N,...",
        help="Train with weights of these bits one after another, such as 8,6,4 or 4,6,8; the last are those "
        "of the file.",
    ),
    option(
        OptionGroup.TRAINING,
        "--steps",
        type=COUNT,
        metavar="N",
        help="Train for at most N steps; by default 24 to 120, fewer for larger models.",
    ),
    option(
        OptionGroup.TRAINING,
        "--batch",
        type=COUNT,
        default=FinetuneOptions.batch,
        metavar="N",
        help="Use N samples per step.",
    ),
    option(
        OptionGroup.TRAINING,
        "--micro-batches",
        type=COUNT,
        default=FinetuneOptions.micro_batches,
        metavar="N",
        help="Divide each batch into N parts, which cores or workers of a cluster compute side by side.",
    ),
    option(
        OptionGroup.TRAINING,
        "--rate",
        type=Number(0, min_open=True),
        default=FinetuneOptions.rate,
        metavar="FACTOR",
        help="Multiply the learning rates by FACTOR.",
    ),
    option(
        OptionGroup.TRAINING,
        "--label-share",
        type=Number(0, 1),
        default=FinetuneOptions.label_share,
        metavar="SHARE",
        help="Weigh the labels against the outputs of the float model, from 0 (its outputs alone) to 1 "
        "(labels alone).",
    ),
    option(
        OptionGroup.TRAINING,
        "--gradient-bits",
        type=click.Choice(["32", "8", "4"]),
        default=str(FinetuneOptions.gradient_bits),
        help="Round gradients to so many bits at random, with feedback of the error.",
    ),
    option(
        OptionGroup.TRAINING,
        "--augment",
        is_flag=True,
        help="Flip and shift images at random, for samples whose inputs are images.",
    ),
    option(
        OptionGroup.TRAINING,
        "--seed",
        type=click.IntRange(0, 2**31 - 1),
        default=FinetuneOptions.seed,
        metavar="N",
        help="Draw the order of the samples and random numbers with this seed.",
    ),
    option(
        OptionGroup.TRAINING,
        "--checkpoint",
        type=REPORT,
        writes=True,
        metavar="FILE",
        help="Keep the state of the training in FILE, and go on from it if it exists.",
    ),
    option(
        OptionGroup.TRAINING,
        "--memory",
        type=Number(1),
        default=float(FinetuneOptions.memory >> 20),
        metavar="MIB",
        help="Keep at most this many MiB of samples and outputs in memory, and compute others again.",
    ),
)


@click.command(
    cls=GroupedCommand,
    examples=[
        "onnxq finetune model.onnx --calib data/ -o model.int8.onnx",
        "onnxq finetune model.onnx --calib data/ --labels data/labels.csv --weight-bits 4",
        "onnxq finetune text.onnx --calib data/ --mode weights",
    ],
    page="docs/finetuning.md",
)
@click.argument("model", type=FILE)
@sample_options
@training_options
@finetuned_mode_options
@accuracy_options
@speed_options
@finetuned_weight_options
@model_file_options
@report_options
@gate_options
@keep_failed_option
@metric_data_option
@metric_options
@with_console
def finetune(console: Console, **options: Any) -> None:
    """Quantize MODEL, train the int8 model on the samples, and write the better of both.

    The float model is the teacher: no labels, no source and no training framework are needed.
    """
    reuse_freed_memory()
    with loading_modules(), loading("onnxq.pipeline"):
        from onnxq.graph.files import check_target
        from onnxq.pipeline import finetune as run
        from onnxq.report.files import check_reports, needs_details, write_reports
        from onnxq.report.quantize_text import quantize_text

    files, output = pop_report_files(options), options.pop("output")
    inputs = input_files({name: value for name, value in options.items() if name != "checkpoint"})
    check_block(options["block"])
    if options["mode"] == Mode.WEIGHTS and (options["bits"] or options["weight_bits"]):
        raise OnnxqError(
            "--mode weights: --weight-bits and --bits are for --mode static: "
            "choose --weight-type int4 or int8"
        )
    given = click.get_current_context().get_parameter_source("label_share")
    if given is not ParameterSource.DEFAULT and options["labels"] is None:
        raise OnnxqError("--label-share has no effect without --labels: add --labels, or leave it out")
    tuning = _pop_tuning(options)
    reports = {path.resolve() for path in files}
    if tuning.checkpoint is not None and tuning.checkpoint.resolve() in reports:
        raise OnnxqError(f"--checkpoint {tuning.checkpoint}: a report goes there: choose another file")
    limits = pop_limits(options)
    task = pop_task(limits, options, labels_train=True)
    options |= {name: kind(options[name]) for name, kind in ENUMS.items() if name in options}
    chosen = QuantizeOptions(limits=limits, details=needs_details(files.values()), **options)
    if output is not None:
        chosen = replace(chosen, output=output_file(output, chosen.default_name))
    check_target(chosen.destination, inputs, force=chosen.force)
    check_reports(files, inputs, output=chosen.destination, force=chosen.force)
    report = console.signed(run(chosen, tuning, task))
    console.warn(report.warnings)
    write_reports(report, files, force=chosen.force)
    console.show(report, lambda: quantize_text(report, verbose=console.verbose, width=console.width))
    exit_on_failed_gate(report.gates)


def _pop_tuning(options: dict[str, Any]) -> FinetuneOptions:
    """Remove `training_options` from a command's options and return them; --labels stays for the metric."""
    checkpoint: Path | None = options.pop("checkpoint")
    return FinetuneOptions(
        labels=options["labels"],
        label_share=options.pop("label_share"),
        bits=_parse_bits(options.pop("bits"), options.pop("weight_bits")),
        steps=options.pop("steps"),
        batch=options.pop("batch"),
        micro_batches=options.pop("micro_batches"),
        rate=options.pop("rate"),
        gradient_bits=int(options.pop("gradient_bits")),
        augment=options.pop("augment"),
        seed=options.pop("seed"),
        checkpoint=checkpoint,
        memory=int(options.pop("memory") * 2**20),
    )


def _parse_bits(schedule: str | None, last: str | None) -> tuple[int, ...]:
    """Return the bits of each part of the training.

    Raises:
        OnnxqError: --bits is no list of numbers from 2 to 8, or does not end with --weight-bits.
    """
    if schedule is None:
        return (int(last or 8),)
    parts = schedule.split(",")
    if not all(part.strip() in {"2", "3", "4", "5", "6", "7", "8"} for part in parts):
        raise OnnxqError(f"--bits {schedule}: expected numbers from 2 to 8 with commas, for example 8,6,4")
    bits = tuple(int(part) for part in parts)
    if last is not None and bits[-1] != int(last):
        raise OnnxqError(
            f"--bits {schedule} ends with {bits[-1]}, but --weight-bits is {last}: leave one out"
        )
    return bits
