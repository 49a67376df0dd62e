"""MSE: the clipping range with the least expected squared error."""

import numpy as np

from onnxq.calibration.sketch import Sketch
from onnxq.calibration.squared_error import ClipError

CANDIDATES = 64


def mse_range(sketch: Sketch) -> tuple[float, float]:
    """Return the (low, high) of least squared error with 8 bits; both ends are searched together."""
    error = ClipError(sketch.distribution())
    shares = np.geomspace(1, 1 / 64, CANDIDATES)
    lows, highs = np.meshgrid(
        min(sketch.minimum, 0.0) * shares, max(sketch.maximum, 0.0) * shares, indexing="ij"
    )
    best = np.unravel_index(np.argmin(error(lows, highs)), lows.shape)
    return float(lows[best]), float(highs[best])
