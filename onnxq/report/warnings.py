"""Warnings about problems of a quantized file."""

from collections.abc import Iterator, Sequence

from onnxq.comparison.parts import ABSOLUTE_FLOOR
from onnxq.evaluation.verification import Kernels, Outputs
from onnxq.options import ActivationType, Mode, QuantizeOptions
from onnxq.plan.operators import INTEGER_KERNELS
from onnxq.report.quantization import Latency
from onnxq.search.settings import SearchSettings

SLOWER = 1.03
"""Ratio of int8 latency to float latency above which a file counts as slower."""
NAMED, NAMED_OUTPUTS = 3, 10
"""Most names of nodes and of outputs in a warning; the others are counted."""


def result_warnings(
    options: QuantizeOptions, kernels: Kernels, outputs: Outputs | None, latency: Latency | None
) -> Iterator[str]:
    """Return one warning per problem."""
    if outputs is not None and outputs.suspect:
        yield (
            f"the integer kernels give {outputs.optimized_db:.1f} dB, the file as written "
            f"{outputs.unoptimized_db:.1f} dB: this ONNX Runtime does not compute what the file specifies"
        )
    static = options.mode == Mode.STATIC
    least = SearchSettings().target_db
    weak = [part for part in outputs.parts if part.bound_db < least] if outputs is not None else []
    if weak:
        few = ", ".join(
            f"'{part.name}' {part.bound_db:.1f} dB"
            for part in sorted(weak, key=lambda part: part.bound_db)[:NAMED_OUTPUTS]
        )
        more = f" and {len(weak) - NAMED_OUTPUTS} more" if len(weak) > NAMED_OUTPUTS else ""
        remedy = (
            f", or leave more nodes in float with --min-sqnr {least:.0f}"
            if static and options.limits.min_sqnr is None
            else ""
        )
        metric = " --metric perplexity" if outputs is not None and outputs.caches else ""
        check = f"check the file with onnxq eval{metric} before use"
        yield f"outputs are far from float ({few}{more}): {check}{remedy}"
    if outputs is not None:
        yield from _not_compared(outputs)
    if latency is not None and latency.ratio > SLOWER:
        yield f"the file is slower than the float model on this machine: {latency.ratio:.2f}x the time"
    if (
        not any(name in INTEGER_KERNELS for name in kernels.counts)
        and options.mode in (Mode.STATIC, Mode.DYNAMIC)
        and options.activation_type is ActivationType.UINT8
        and options.limits.asked
    ):
        yield "the file has no integer kernels: accuracy gates pass because it equals the float model"
    if kernels.fell_back and options.activation_type is ActivationType.UINT8:
        few = ", ".join(f"'{name}'" for name in kernels.fell_back[:NAMED])
        more = f" and {len(kernels.fell_back) - NAMED} more" if len(kernels.fell_back) > NAMED else ""
        yield f"planned for integer kernels, but in float in this ONNX Runtime: {few}{more}"


def _not_compared(outputs: Outputs) -> Iterator[str]:
    """Return a warning for outputs whose error is not known, or not known of all values."""
    for name, count in outputs.uneven.items():
        yield (
            f"in {count} of {outputs.samples} samples '{name}' is far from float: its values are far smaller "
            "there than in the others, which set its range"
        )
    if outputs.undefined:
        yield f"the float model gives NaN in {_named(outputs.undefined)}: these values are not compared"
    if outputs.empty:
        yield (
            f"in float {_named(outputs.empty)} has no value other than zero in any sample "
            f"(root mean square below {ABSOLUTE_FLOOR:g}): nothing tells how close it comes: add "
            "samples that give it values"
        )


def _named(outputs: Sequence[str]) -> str:
    few = ", ".join(f"output '{name}'" for name in outputs[:NAMED_OUTPUTS])
    return few + (f" and {len(outputs) - NAMED_OUTPUTS} more" if len(outputs) > NAMED_OUTPUTS else "")
