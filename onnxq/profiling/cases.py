"""What is measured: models to time, and the rows that follow from their times."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxq.profiling.fit import Row
from onnxq.profiling.measurement import Probe, Times

AROUND = {
    "QuantizeLinear": "integer quantize",
    "DequantizeLinear": "integer dequantize",
    "ReorderInput": "float reorder",
    "ReorderOutput": "float reorder",
}
"""Rows of the kernels around the one that is measured."""


@dataclass(frozen=True)
class Case:
    """Models to time, and the rows that follow from their times.

    probes  the models
    rows    gives the rows for the times of each model and the nanoseconds that the profiler adds to a call
    """

    probes: tuple[Probe, ...]
    rows: Callable[[Sequence[Times], float], list[Row]]
