"""Percentile: keep a share of the values and clip the rest, half of it at each end."""

from onnxq.calibration.sketch import Sketch


def percentile_range(sketch: Sketch, percentile: float) -> tuple[float, float]:
    """Return the (low, high) between which `percentile` percent of the values lie.

    The rest is divided evenly between both ends. After a ReLU, many values are 0, so the lower quantile
    is 0: a one-sided tensor needs no case of its own.
    """
    outside = (1 - percentile / 100) / 2
    distribution = sketch.distribution()
    return distribution.quantile(outside), distribution.quantile(1 - outside)
