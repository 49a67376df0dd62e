"""What a quantized tensor is: integer type, scale, zero point, axis. Frozen values, no behaviour."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float32]
Integers = NDArray[Any]
Feeds = dict[str, Array]
"""Arrays by input or output name."""


@dataclass(frozen=True)
class IntegerType:
    """An integer type with the range of values that onnxq uses of it."""

    name: str
    low: int
    high: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy type of stored values."""
        return np.dtype(self.name)


UINT8 = IntegerType("uint8", 0, 255)
INT8 = IntegerType("int8", -127, 127)  # symmetric: -128 has no positive counterpart
INT32 = IntegerType("int32", -(2**31), 2**31 - 1)


@dataclass(frozen=True)
class QuantParams:
    """real = scale * (stored - zero_point), per tensor (axis None) or along `axis`.

    `scale` is float32 and `zero_point` of the stored type; both are scalars (shape []) per tensor,
    or have shape [channels].
    """

    type: IntegerType
    scale: Floats
    zero_point: Integers
    axis: int | None = None
