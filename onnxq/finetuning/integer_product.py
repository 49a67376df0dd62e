"""Values as small integers times factors: weights travel in this form, exactly, in a quarter of the bytes."""

from dataclasses import dataclass
from functools import reduce

import numpy as np

from onnxq.types import Array, Floats


@dataclass(frozen=True)
class Product:
    """A value as int8 integers and factors that broadcast to it, which are multiplied one after another."""

    integers: Array
    factors: tuple[Array, ...]

    @property
    def value(self) -> Floats:
        """The value."""
        return np.asarray(reduce(np.multiply, self.factors, self.integers.astype(np.float32)), np.float32)
