"""What a user should know about a file that was written and is not as it should be."""

from collections.abc import Iterator

from onnxq.fallback import RUINED_DB, TARGET_DB
from onnxq.options import Mode, QuantizeOptions
from onnxq.report.model import Latency
from onnxq.verify import Kernels, Outputs

SLOWER = 1.03
"""A file that takes so many times the float model's time is called slower."""
NAMED = 3
"""Nodes that a line names before it counts the others."""


def doubts(options: QuantizeOptions, kernels: Kernels, outputs: Outputs | None, latency: Latency | None) -> Iterator[str]:
    """A line for each."""
    if outputs is not None and outputs.suspect:
        yield (
            f"the integer kernels give {outputs.optimized_db:.1f} dB, the file as written {outputs.unoptimized_db:.1f} dB: "
            "this runtime computes something else than the file says"
        )
    static = options.mode is Mode.STATIC
    if outputs is not None and outputs.sqnr_db is not None and outputs.sqnr_db < (TARGET_DB if static else RUINED_DB):
        remedy = f", or leave more nodes float with --min-sqnr {TARGET_DB:.0f}" if static and options.limits.min_sqnr is None else ""
        yield f"the outputs are far from float ({outputs.sqnr_db:.1f} dB): check with onnxq eval before using the file{remedy}"
    if latency is not None and latency.ratio > SLOWER:
        yield f"the file is slower than the float model on this machine: {latency.ratio:.2f}x the time"
    if kernels.fell_back:
        few = ", ".join(f"'{name}'" for name in kernels.fell_back[:NAMED])
        more = f" and {len(kernels.fell_back) - NAMED} more" if len(kernels.fell_back) > NAMED else ""
        yield f"planned, but in float on this runtime: {few}{more}"
