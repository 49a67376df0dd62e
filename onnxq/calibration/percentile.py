"""Percentile: keep a share of the values and clip the rest, half of it at each end."""

from onnxq.calibration.sketch import Sketch


def percentile_range(sketch: Sketch, percentile: float) -> tuple[float, float]:
    """(low, high) between which `percentile` percent of the values lie.

    What is outside is divided evenly between both ends. An end at which 0 stands in for all that a
    ReLU cut off is its own quantile, so one-sided tensors need no case of their own.
    """
    outside = (1 - percentile / 100) / 2
    distribution = sketch.distribution()
    return distribution.quantile(outside), distribution.quantile(1 - outside)
