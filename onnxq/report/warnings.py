"""What a user should know about a file that was written and is not as it should be."""

from collections.abc import Iterator

from onnxq.evaluation.verification import Kernels, Outputs
from onnxq.options import Mode, QuantizeOptions
from onnxq.plan.operators import INTEGER_KERNELS
from onnxq.report.quantization import Latency
from onnxq.search.settings import SearchSettings

WITHOUT_RANGES_DB = 12.0
"""What outputs have to keep in modes that have no fallback."""
SLOWER = 1.03
"""A file that takes so many times the float model's time is called slower."""
NAMED = 3
"""Nodes that a line names before it counts the others."""


def doubts(
    options: QuantizeOptions, kernels: Kernels, outputs: Outputs | None, latency: Latency | None
) -> Iterator[str]:
    """A line for each."""
    target = SearchSettings().target_db
    if outputs is not None and outputs.suspect:
        yield (
            f"the integer kernels give {outputs.optimized_db:.1f} dB, the file as written {outputs.unoptimized_db:.1f} dB: "
            "this runtime computes something else than the file says"
        )
    static = options.mode is Mode.STATIC
    least = target if static else WITHOUT_RANGES_DB
    weak = [part for part in outputs.parts if part.bound_db < least] if outputs is not None else []
    if weak:
        few = ", ".join(
            f"'{part.name}' {part.bound_db:.1f} dB"
            for part in sorted(weak, key=lambda part: part.bound_db)[:NAMED]
        )
        more = f" and {len(weak) - NAMED} more" if len(weak) > NAMED else ""
        remedy = (
            f", or leave more nodes float with --min-sqnr {target:.0f}"
            if static and options.limits.min_sqnr is None
            else ""
        )
        yield f"outputs are far from float ({few}{more}): check with onnxq eval before using the file{remedy}"
    if latency is not None and latency.ratio > SLOWER:
        yield f"the file is slower than the float model on this machine: {latency.ratio:.2f}x the time"
    if (
        not any(name in INTEGER_KERNELS for name in kernels.counts)
        and options.mode in (Mode.STATIC, Mode.DYNAMIC)
        and options.limits.asked
    ):
        yield "nothing of the file runs on integers: gates on its accuracy hold because it is the float model"
    if kernels.fell_back:
        few = ", ".join(f"'{name}'" for name in kernels.fell_back[:NAMED])
        more = f" and {len(kernels.fell_back) - NAMED} more" if len(kernels.fell_back) > NAMED else ""
        yield f"planned, but in float on this runtime: {few}{more}"
