"""MSE: the clipping range with the least expected squared error."""

import numpy as np

from onnxq.calibration.sketch import Sketch
from onnxq.calibration.squared_error import ClipError

CANDIDATES = 64


def mse_range(sketch: Sketch, steps: int = 255) -> tuple[float, float]:
    """Return the (low, high) of least squared error; both ends are searched together.

    Args:
        sketch: the values.
        steps: distance of the largest stored integer from the least.
    """
    error = ClipError(sketch.distribution(), steps)
    shares = np.geomspace(1, 1 / 64, CANDIDATES)
    lows, highs = np.meshgrid(
        min(sketch.minimum, 0.0) * shares, max(sketch.maximum, 0.0) * shares, indexing="ij"
    )
    best = np.unravel_index(np.argmin(error(lows, highs)), lows.shape)
    return float(lows[best]), float(highs[best])
