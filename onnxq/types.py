"""Quantized tensors: integer type, scale, zero point and axis. Frozen values without behaviour."""

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
    """An integer type and the range of its values that onnxq uses."""

    name: str
    low: int
    high: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy type of stored values."""
        return np.dtype(self.name)


UINT8 = IntegerType("uint8", 0, 255)
UINT16 = IntegerType("uint16", 0, 65535)
INT16 = IntegerType("int16", -32767, 32767)
INT8 = IntegerType("int8", -127, 127)  # symmetric: -128 has no positive counterpart
INT32 = IntegerType("int32", -(2**31), 2**31 - 1)

ACTIVATION_TYPES = {kind.name: kind for kind in (UINT8, UINT16, INT16)}
"""Stored types of activations by name; those of signed types have zero point 0."""


@dataclass(frozen=True)
class QuantParams:
    """Affine parameters: real = scale * (stored - zero_point), per tensor (axis None) or along `axis`.

    scale       float32, scalar (shape []) per tensor, otherwise [channels]
    zero_point  of the stored type, shaped like `scale`
    """

    type: IntegerType
    scale: Floats
    zero_point: Integers
    axis: int | None = None
