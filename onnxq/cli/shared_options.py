"""Options that several commands take, and the values that are made of them."""

import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from onnxq.cli.groups import Command, OptionGroup, completing, option, registry
from onnxq.cli.values import COUNT, FILE, REPORT, TEXT_OR_FILE, Number
from onnxq.errors import OnnxqError
from onnxq.options import Limits, QuantizeOptions, Target

SAMPLES = "a folder of files, a URL, or a Python function as module:function"
SCORE_OPTIONS = ("class_axis", "decoder", "charset", "ignore_spaces", "pool")
"""Parameters of `metric_options` that are fields of `ScoreOptions`."""


def combined(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Join several options into one decorator; help lists them in this order."""
    return lambda command: functools.reduce(lambda inner, each: each(inner), reversed(options), command)


preprocess_option = option(
    OptionGroup.DATA,
    "--preprocess",
    type=TEXT_OR_FILE,
    metavar="PRESET|FILE",
    shell_complete=completing(registry("onnxq.data.preprocessing", "PRESETS"), files=True),
    help="Turn files into inputs by a preset (imagenet, imagenet-nhwc, unit, symmetric or guess), or by a "
    "TOML file with a [preprocess] table.",
)

shape_option = option(
    OptionGroup.DATA,
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=1,3,224,224",
    help="Set the shape of an input with open sizes, which are 1 by default.",
)

target_option = option(
    OptionGroup.MODE,
    "--target",
    type=TEXT_OR_FILE,
    multiple=True,
    default=(str(Target.PORTABLE),),
    metavar=f"{'|'.join(Target)}|FILE",
    shell_complete=completing(Target, files=True),
    help="Quantize for this CPU family, or for the device of a file of onnxq profile, slower than float on "
    "none of several; portable keeps integer sums from saturating on x86 CPUs without VNNI.",
)

state_option = option(
    OptionGroup.DATA,
    "--state",
    "states",
    multiple=True,
    metavar="INPUT=OUTPUT",
    help="Feed this output back as this input of the next sample; by default such pairs are detected, and "
    "'none' turns that off.",
)

sample_options = combined(
    option(
        OptionGroup.DATA,
        "--calib",
        type=FILE,
        function=True,
        help=f"Calibrate on these samples: {SAMPLES}.",
    ),
    option(
        OptionGroup.DATA,
        "--samples",
        type=COUNT,
        default=QuantizeOptions.samples,
        metavar="N",
        help="Use at most N samples, evenly spaced.",
    ),
    preprocess_option,
    state_option,
    option(
        OptionGroup.DATA,
        "--allow-nonfinite",
        is_flag=True,
        help="Leave NaN and infinite values out of the statistics instead of stopping at them.",
    ),
)

node_options = combined(
    option(
        OptionGroup.MODE,
        "--include",
        multiple=True,
        metavar="NAME",
        help="Quantize only nodes of this name or glob pattern.",
    ),
    option(
        OptionGroup.MODE,
        "--exclude",
        multiple=True,
        metavar="NAME",
        help="Keep nodes of this name or glob pattern in float.",
    ),
    option(
        OptionGroup.MODE,
        "--op-types",
        multiple=True,
        metavar="TYPE",
        help="Quantize only operators of this type.",
    ),
)

cluster_option = option(
    OptionGroup.SPEED,
    "--cluster",
    metavar="ADDRESS",
    help="Work on the workers of this Dask cluster: tcp://HOST:PORT of its scheduler, a scheduler file, dask "
    "for the scheduler of Dask's configuration, or local:N for N processes of this machine.",
)

force_option = option(
    OptionGroup.OUTPUT,
    "--force",
    is_flag=True,
    writes=True,
    help="Overwrite the output file and reports that exist.",
)

gate_options = combined(
    option(
        OptionGroup.GATES,
        "--max-drop",
        type=Number(),
        metavar="DROP",
        help="Require that the metric falls by at most DROP: percentage points for accuracy-like metrics, "
        "otherwise the metric's own unit.",
    ),
    option(
        OptionGroup.GATES,
        "--min-sqnr",
        type=Number(),
        metavar="DB",
        help="Require an SQNR of the worst output part of at least DB decibels, for quantize as expected on "
        "new samples.",
    ),
    option(
        OptionGroup.GATES,
        "--min-speedup",
        type=Number(),
        metavar="RATIO",
        help="Require a speed-up (float latency / int8 latency, one thread) of at least RATIO, such as 1.2.",
    ),
    option(
        OptionGroup.GATES,
        "--max-size",
        type=Number(),
        metavar="RATIO",
        help="Require a file of at most RATIO times the float model's size, such as 0.3.",
    ),
)

metric_options = combined(
    option(
        OptionGroup.METRIC,
        "--labels",
        type=TEXT_OR_FILE,
        metavar="FILE|folders",
        shell_complete=completing(("folders",), files=True),
        help="Read labels from a CSV with the header file,label, or take the folder of a sample as class.",
    ),
    option(
        OptionGroup.METRIC,
        "--metric",
        function=True,
        metavar="NAME",
        shell_complete=completing(registry("onnxq.evaluation.scores.kinds", "KINDS")),
        help="Score outputs by classification (the default with labels), regression, embedding, "
        "segmentation, detection, text, perplexity, or a Python function as module:function.",
    ),
    option(
        OptionGroup.METRIC,
        "--class-axis",
        type=click.IntRange(-64, 64),
        metavar="AXIS",
        help="Find the classes on this axis of the output; by default the last, for segmentation the second.",
    ),
    option(
        OptionGroup.METRIC,
        "--decoder",
        function=True,
        metavar="NAME|MODULE:FUNCTION",
        shell_complete=completing(registry("onnxq.evaluation.scores.detector_heads", "LAYOUTS")),
        help="Decode outputs to boxes or text by this function, or by a detector's layout such as yolov8.",
    ),
    option(
        OptionGroup.METRIC,
        "--charset",
        type=FILE,
        metavar="FILE",
        help="Decode CTC outputs for --metric text with this file of one character per line.",
    ),
    option(OptionGroup.METRIC, "--ignore-spaces", is_flag=True, help="Compare texts without their spaces."),
    option(
        OptionGroup.METRIC,
        "--pool",
        type=click.Choice(["mean", "first", "none"]),
        default="mean",
        help="Pool token embeddings into one by this rule.",
    ),
)

report_options = combined(
    option(
        OptionGroup.OUTPUT,
        "--report",
        type=REPORT,
        multiple=True,
        writes=True,
        metavar="FILE",
        help="Also write a report of the kind that the suffix names: .html, .json, .md, .xml (JUnit) or "
        ".png (plots).",
    ),
    option(
        OptionGroup.OUTPUT,
        "--junit",
        type=REPORT,
        writes=True,
        metavar="FILE",
        help="Also write gates as JUnit XML.",
    ),
    option(
        OptionGroup.OUTPUT,
        "--markdown",
        type=REPORT,
        writes=True,
        metavar="FILE",
        help="Also write a Markdown summary for a pull request or a CI job.",
    ),
)


def pop_report_files(options: dict[str, Any]) -> dict[Path, str]:
    """Remove `report_options` from a command's options and return the files to write, with their suffixes.

    Raises:
        OnnxqError: two options name the same file.
    """
    named = [("--report", path, path.suffix.lower()) for path in options.pop("report")]
    for name, suffix in (("junit", ".xml"), ("markdown", ".md")):
        path = options.pop(name, None)
        if path is not None:
            named.append((f"--{name}", path, suffix))
    files: dict[Path, str] = {}
    for option_name, path, suffix in named:
        if path.resolve() in {each.resolve() for each in files}:
            raise OnnxqError(f"{option_name} {path}: another report goes there: choose another file")
        files[path] = suffix
    return files


def input_files(options: Mapping[str, Any]) -> list[Path]:
    """Return the existing files and folders of samples that options name, which no output may overwrite."""
    found = []
    for name, value in options.items():
        for each in value if isinstance(value, tuple) else [value]:
            # unlike Path.is_file, this is False for texts that are too long for a name
            if isinstance(each, str | Path) and os.path.isfile(each):  # noqa: PTH113
                found.append(Path(each))
            elif name in ("calib", "data") and isinstance(each, Path) and each.is_dir():
                found.append(each)
    return found


def pop_limits(options: dict[str, Any]) -> Limits:
    """Remove the gates from a command's options and return them."""
    return Limits(**{each.name: options.pop(each.name) for each in fields(Limits) if each.name in options})


def pop_score_options(options: dict[str, Any]) -> dict[str, Any]:
    """Remove `SCORE_OPTIONS` from a command's options and return them."""
    return {name: options.pop(name) for name in SCORE_OPTIONS}


def parse_shapes(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Parse values of `shape_option`, NAME=1,3,224,224.

    Raises:
        OnnxqError: a value is anything else.
    """
    shapes = {}
    for text in texts:
        name, equals, sizes = text.rpartition("=")
        if not name or not equals or not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", sizes):
            raise OnnxqError(f"--shape {text}: expected NAME=1,3,224,224")
        shapes[name] = tuple(int(size) for size in sizes.split(","))
    return shapes
