"""Process a large weight a block of rows at a time: temporary arrays stay small and in the cache."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

import numpy as np

from onnxq.types import Array, Floats

Parameters = ParamSpec("Parameters")

BLOCK_VALUES = 1 << 22
"""Values of a weight processed at a time."""


def row_blocks(shape: tuple[int, ...]) -> list[slice]:
    """Return slices that cut the rows [channels, K] into blocks; one empty slice where there are no rows."""
    step = max(1, BLOCK_VALUES // max(shape[-1], 1))
    return [slice(start, start + step) for start in range(0, max(shape[0], 1), step)]


def by_blocks(
    function: Callable[Concatenate[Floats, Floats, Parameters], Array],
) -> Callable[Concatenate[Floats, Floats, Parameters], Array]:
    """Let a function of weights [channels, K] and scales [channels] process a block of rows at a time.

    The function must treat each row independently.
    """

    @wraps(function)
    def blocked(rows: Floats, scales: Floats, *more: Parameters.args, **named: Parameters.kwargs) -> Array:
        blocks = row_blocks(rows.shape)
        return (
            function(rows, scales, *more, **named)
            if len(blocks) == 1
            else np.concatenate([function(rows[b], scales[b], *more, **named) for b in blocks])
        )

    return blocked  # type: ignore[return-value]  # `wraps` hides that both arguments are positional
