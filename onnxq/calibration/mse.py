"""MSE: the clip range with the least expected squared error."""

import numpy as np

from onnxq.calibration.sketch import Sketch
from onnxq.calibration.squared_error import ClipError

CANDIDATES = 64


def mse_range(sketch: Sketch) -> tuple[float, float]:
    """(low, high) that minimise the squared error of 8-bit quantization, both ends searched together."""
    error = ClipError(sketch.distribution())
    shares = np.geomspace(1, 1 / 64, CANDIDATES)
    lows, highs = np.meshgrid(
        min(sketch.minimum, 0.0) * shares, max(sketch.maximum, 0.0) * shares, indexing="ij"
    )
    best = np.unravel_index(np.argmin(error(lows, highs)), lows.shape)
    return float(lows[best]), float(highs[best])
