"""Ranges of the channels of a tensor, from which the range after any division by channel follows."""

from collections.abc import Mapping

import numpy as np

from onnxq.types import Array, Floats


def channel_ranges(values: Array) -> Floats:
    """Return the minimum and maximum of each channel of the last axis, [2, channels], of finite values alone.

    Channels without any are [inf, -inf].
    """
    rows = values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1, 1)
    low, high = rows.min(axis=0), rows.max(axis=0)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        finite = np.isfinite(rows)
        low = rows.min(axis=0, where=finite, initial=np.inf)
        high = rows.max(axis=0, where=finite, initial=-np.inf)
    return np.stack([low, high]).astype(np.float32)


def add_channels(ranges: dict[str, Floats], more: Mapping[str, Floats]) -> None:
    """Widen the ranges of channels, by tensor, in place."""
    for name, found in more.items():
        known = ranges.get(name, found)
        low, high = np.minimum(known[0], found[0]), np.maximum(known[1], found[1])
        ranges[name] = np.stack([low, high])
