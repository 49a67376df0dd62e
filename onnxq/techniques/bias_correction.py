"""Bias correction: add to the bias the mean shift of the output that rounding the weights causes.

M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019:
E[W x] - E[W_q x] = (W - W_q) E[x]. The paper derives E[x] from batch normalization; here it is
measured on the calibration samples.
"""

import numpy as np

from onnxq.techniques.row_blocks import row_blocks
from onnxq.types import Floats, Integers


def output_shift(rows: Floats, stored: Integers, scales: Floats, mean: Floats) -> Floats:
    """Return the correction to add to the bias, [channels].

    Args:
        rows: float weights [channels, K].
        stored: their integers, of the same shape.
        scales: [channels].
        mean: E[x], [groups, K]; channels are divided evenly among groups.
    """
    if len(mean) > 1:
        difference = rows - stored * scales[:, None]
        by_group = difference.reshape(len(mean), -1, rows.shape[1])
        return np.asarray(np.einsum("gck,gk->gc", by_group, mean).reshape(-1), np.float32)
    shifts = [
        (rows[block] - stored[block] * scales[block, None]) @ mean[0] for block in row_blocks(rows.shape)
    ]
    return np.concatenate(shifts).astype(np.float32)
