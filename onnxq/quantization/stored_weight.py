"""What the file holds of a float weight: bits, bytes and rounding error."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxq.types import Floats


@dataclass(frozen=True)
class StoredWeight:
    """A weight in few bits.

    bits         of a code
    bytes        codes, scales and zero points; a weight that several nodes share is stored once
    float_bytes  of the float weight
    sqnr_db      SQNR of the layer's output on the calibration samples with this weight alone in few bits, dB;
        that of the weight itself without samples, or for a table
    """

    bits: int
    bytes: int
    float_bytes: int
    sqnr_db: float


def joined(weights: Sequence[StoredWeight]) -> StoredWeight:
    """Return weights of one node and equal bits as one, with the SQNR of the worst."""
    return StoredWeight(
        weights[0].bits,
        sum(each.bytes for each in weights),
        sum(each.float_bytes for each in weights),
        min(each.sqnr_db for each in weights),
    )


def error_share(weight: Floats, decoded: Floats, second: Floats | None = None) -> float:
    """Return the rounding error as a share of the output's power, or of the weights' power without inputs.

    Args:
        weight: the float weight; [channels, K] with second moments.
        decoded: what its codes represent.
        second: second moments [K, K] of the layer's inputs; None where they are unknown.
    """
    error = decoded - weight
    if second is None:
        added, whole = np.square(error).sum(), np.square(weight).sum()
    else:
        added, whole = ((error @ second) * error).sum(), ((weight @ second) * weight).sum()
    return float(added / np.maximum(whole, added.dtype.type(1e-30)))
