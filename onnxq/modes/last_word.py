"""The last word on a file is a measurement beside float: its size, its latency here, boxes of a detector."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds
from onnxq.evaluation.verification import Outputs
from onnxq.graph.files import file_bytes
from onnxq.modes.float_form import Shortfall
from onnxq.options import Effort, Mode
from onnxq.report.quantization import Latency
from onnxq.report.warnings import SLOWER
from onnxq.runtime.disk_list import array_bytes
from onnxq.runtime.latency import medians_ms
from onnxq.runtime.memory import release_freed_memory
from onnxq.runtime.sessions import Tuning
from onnxq.search.inputs import Inputs
from onnxq.search.trial import Outcome

SURELY_FASTER, SPEED_CHECKS = 0.97, 4
"""Latency ratio to float up to which one measurement is believed, and further ones above it."""
SURELY_SMALLER = 0.95
"""Size ratio to float up to which a file that is no faster is worth the noise of its integers."""
LARGE_SAMPLE = 4 << 20
"""Bytes of a sample from which neither session plans its memory as one block, beside the first run's."""


LEAST_BOX_F1 = 0.95
"""Agreement of a detector's boxes with float's below which the float model is written."""


def last_word(inputs: Inputs, path: Path, outcome: Outcome) -> tuple[Latency | None, Shortfall | None]:
    """Measure a file; return its latency, and why the float model is to be written instead, if it is.

    Args:
        inputs: options, model and samples.
        path: the file.
        outcome: the outcome that it was written from.
    """
    options, checked = inputs.options, _checked(inputs)
    before, after = file_bytes(options.model), file_bytes(path)
    if checked and after > before:
        text = f"the int8 file would have {after} bytes, float has {before}"
        return None, Shortfall("larger", text)
    latency = latency_of(inputs, path)
    recipe = outcome.choice.recipe
    some = bool(recipe.plan.nodes or recipe.lstms)  # otherwise it is float already
    if not checked or not some or latency is None or not inputs.target.like_here:
        return latency, None
    return latency, _no_better(inputs, path, latency, after / before)


def lost_boxes(inputs: Inputs, outcome: Outcome, outputs: Outputs | None) -> Shortfall | None:
    """Tell whether a detector's file finds too few of float's boxes; a limit of the user's decides alone.

    Args:
        inputs: options, model and samples.
        outcome: the outcome that the file was written from.
        outputs: how the file compares with float.
    """
    boxes, recipe = outputs.boxes if outputs is not None else None, outcome.choice.recipe
    asked = inputs.options.limits.asked or not _checked(inputs)
    if boxes is None or asked or not (recipe.plan.nodes or recipe.lstms) or boxes.f1 >= LEAST_BOX_F1:
        return None
    text = f"boxes agree with float's by {boxes.f1:.1%} only (F1), {LEAST_BOX_F1:.0%} are asked"
    return Shortfall("missing boxes", text)


def _checked(inputs: Inputs) -> bool:
    """Whether the float model may be written instead of int8."""
    options = inputs.options
    return options.mode == Mode.STATIC and options.skip_slow_nodes and not options.keep_int8


def _no_better(inputs: Inputs, path: Path, latency: Latency, size: float) -> Shortfall | None:
    """Tell whether a file is slower than float, or neither faster nor smaller.

    Several new pairs of sessions say so, not one, which may be unlucky.
    """
    if latency.ratio <= SURELY_FASTER:
        return None
    again = [latency_of(inputs, path) for _ in range(SPEED_CHECKS)]
    ratio = statistics.median([latency.ratio, *(each.ratio for each in again if each is not None)])
    if ratio > SLOWER:
        return Shortfall("slower", f"int8 takes {ratio:.2f}x the time of float on this machine")
    if ratio > SURELY_FASTER and size > SURELY_SMALLER:
        text = f"int8 takes {ratio:.2f}x the time of float on this machine and {size:.2f}x its bytes"
        return Shortfall("no better", text)
    return None


def timed_samples(inputs: Inputs) -> Sequence[Sample]:
    """Return the samples on which latency is measured."""
    return inputs.samples.validation[: inputs.settings.latency_samples]


def latency_of(inputs: Inputs, path: Path) -> Latency | None:
    """Measure the latency of the float model and of the file; None without samples."""
    feeds = [check_feeds(sample, inputs.specs) for sample in timed_samples(inputs)]
    if not feeds:
        return None
    seconds = 0.1 if inputs.options.effort is Effort.FAST else 0.5
    files = [inputs.options.model, path]
    large = array_bytes(feeds[0].values()) >= LARGE_SAMPLE
    if large:
        release_freed_memory()
    tuning = Tuning(patterns=not large)
    return Latency(
        *medians_ms(files, feeds, threads=1, seconds=seconds, together=not inputs.large, tuning=tuning)
    )
