"""Sketches of arrays, as the calibration pass makes them."""

import numpy as np

from onnxq.calibration.sketch import Sketch, measure


def add_batch(sketch, values, *, stride=1, offset=0):
    """Add one batch of float32 values; every `stride`-th from `offset` is counted."""
    measured = measure(values, stride=stride, offset=offset)
    if measured is not None:
        sketch.count(measured.bins)
        sketch.add_range(measured)


def sketch_of(*batches):
    """A sketch of several batches."""
    sketch = Sketch()
    for batch in batches:
        add_batch(sketch, np.asarray(batch, np.float32))
    return sketch
