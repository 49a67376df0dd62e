"""Statistics of a tensor that is divided by channel, without another pass over the samples."""

from onnxq.calibration.collect import Divided
from onnxq.calibration.sketch import Sketch, measure
from onnxq.calibration.statistics import Statistics


def divided_sketch(statistics: Statistics, divided: Divided) -> Sketch | None:
    """Return the sketch of a divided tensor; None where the statistics do not hold what it needs.

    Its values are those of the rows of a layer. Its range is exact: it follows from that of each channel.
    """
    layer = next((layer for layer in statistics.rows if layer.tensor == divided.tensor), None)
    ranges = statistics.channels.get(divided.tensor)
    if layer is None or layer.kernel is not None or ranges is None or divided.axis != -1:
        return None
    found, factors = Sketch(), divided.factors
    for part in statistics.rows[layer]:
        measured = measure(part.reshape(-1, layer.size) * factors)
        if measured is not None:
            found.count(measured.bins)
            found.add_range(measured)
    if not found.batches:
        return None
    low, high = ranges * factors
    found.minimum, found.maximum = float(low.min()), float(high.max())
    return found
