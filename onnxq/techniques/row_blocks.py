"""Large weights are worked on a few rows at a time: the temporary arrays stay in the cache, and small."""

from collections.abc import Callable
from functools import wraps

import numpy as np

from onnxq.types import Array, Floats

BLOCK_VALUES = 1 << 22
"""Values of a weight worked on at a time."""


def row_blocks(shape: tuple[int, ...]) -> list[slice]:
    """Slices that cut the rows [channels, K] into blocks; one that is empty where there are no rows."""
    step = max(1, BLOCK_VALUES // max(shape[-1], 1))
    return [slice(start, start + step) for start in range(0, max(shape[0], 1), step)]


def by_blocks(function: Callable[[Floats, Floats], Array]) -> Callable[[Floats, Floats], Array]:
    """Let a function of weights [channels, K] and scales [channels], row by row independent, take blocks of rows."""

    @wraps(function)
    def blocked(rows: Floats, scales: Floats) -> Array:
        blocks = row_blocks(rows.shape)
        return (
            function(rows, scales)
            if len(blocks) == 1
            else np.concatenate([function(rows[b], scales[b]) for b in blocks])
        )

    return blocked
