"""Registry of calibration methods: a method is a function from a sketch to a clipping range.

A new method is one file with such a function, and its entry in `METHODS`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from onnxq.calibration.entropy import entropy_range
from onnxq.calibration.mse import mse_range
from onnxq.calibration.percentile import percentile_range
from onnxq.calibration.sketch import Sketch
from onnxq.options import Method
from onnxq.types import UINT8, IntegerType

Range = tuple[float, float]


@dataclass(frozen=True)
class MethodOptions:
    """Settings of the methods.

    percentile  share of values kept, percent
    type        type of the stored activations
    """

    percentile: float = 99.99
    type: IntegerType = UINT8


METHODS: dict[str, Callable[[Sketch, MethodOptions], Range]] = {
    Method.MINMAX: lambda sketch, _: (sketch.minimum, sketch.maximum),
    Method.MOVING_AVERAGE: lambda sketch, _: sketch.moving_range(),
    Method.PERCENTILE: lambda sketch, options: percentile_range(sketch, options.percentile),
    Method.ENTROPY: lambda sketch, _: entropy_range(sketch),
    Method.MSE: lambda sketch, options: mse_range(sketch, options.type.high - options.type.low),
}
"""Methods by name; `--method auto` tries them in this order."""


def choose_range(sketch: Sketch, method: str, options: MethodOptions) -> Range:
    """Return a tensor's clipping range by a method: it holds 0, and is never wider than the values seen."""
    low, high = METHODS[method](sketch, options)
    return min(max(low, sketch.minimum), 0.0), max(min(high, sketch.maximum), 0.0)
