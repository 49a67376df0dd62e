"""Values of two models in one shape."""

import numpy as np
import pytest

from onnxq.comparison.metrics import aligned
from onnxq.errors import ModelError


def test_a_view_is_compared_value_by_value():
    want, have = np.arange(6.0).reshape(1, 2, 3), np.arange(6.0).reshape(2, 3)
    assert np.array_equal(*aligned(want, have))
    with pytest.raises(ModelError, match="3 and 2 axes"):
        aligned(want, have[:1])
