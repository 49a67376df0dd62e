"""The two passes over the samples: one sketches the planned tensors, one sums the layers' moments."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxq.calibration.batches import Part, observe
from onnxq.calibration.moments import LayerInput, Moments, empty_moments, take_rows
from onnxq.calibration.sketch import Measured, Sketch, measure
from onnxq.calibration.statistics import Statistics
from onnxq.data.source import Sample
from onnxq.errors import DataError
from onnxq.schemes import Floats

COUNTED = 1 << 13
"""Values of a tensor counted a sample; of larger ones an evenly spaced part, min and max of all."""
NONE = np.zeros(0, np.uint16)


def collect(model: ir.Model, names: Sequence[str], samples: Sequence[Sample], digest: str, first: int = 0) -> Statistics:
    """Statistics of the named values over the samples.

    Args:
        model: the normalized float model.
        names: values of the main graph, graph inputs among them.
        samples: read one by one.
        digest: SHA-256 of the model file that the statistics belong to.
        first: number of samples that came before these (in another shard of the same data).

    Raises:
        DataError: a sample does not fit the model, or a value is NaN or infinite.
    """
    statistics = Statistics(digest, sketches={name: Sketch() for name in names})
    locks = {name: threading.Lock() for name in names}

    def count(part: Part, position: int) -> tuple[int, dict[str, Measured]]:
        ranges = {}
        for name, sketch in statistics.sketches.items():
            values = part.values[name]
            measured = measure(values, stride=_stride(values.size, part.samples), offset=first + position)
            if measured is None:
                continue
            if not np.isfinite(measured.low) or not np.isfinite(measured.high):
                raise DataError(
                    f"sample {part.label}: tensor '{name}' holds NaN or infinite values: "
                    "remove the sample, or exclude the node that makes them with --exclude"
                )
            with locks[name]:
                sketch.count(measured.bins)
            ranges[name] = replace(measured, bins=NONE)
        return part.samples, ranges

    def add(result: tuple[int, dict[str, Measured]]) -> None:
        for name, measured in result[1].items():
            statistics.sketches[name].add_range(measured)
        statistics.samples += result[0]

    statistics.data = observe(model, names, samples, count, add, "calibrate")
    return statistics


def _stride(size: int, batch: int) -> int:
    # an odd stride, and a start that moves, reach every channel of layouts with even sizes
    return 1 if size <= COUNTED * batch else (size // (COUNTED * batch)) | 1


def collect_moments(model: ir.Model, layers: Iterable[LayerInput], samples: Sequence[Sample], *, second: bool) -> dict[LayerInput, Moments]:
    """Moments of layers' inputs over the samples.

    Args:
        model: the normalized float model.
        layers: of which they are wanted.
        samples: read one by one; a few dozen say enough.
        second: second moments too, for as many layers as fit into memory.
    """
    moments = empty_moments(layers, second=second)

    def take(part: Part, position: int) -> dict[LayerInput, Floats]:
        return {
            layer: take_rows(layer, part.values[layer.tensor], layer.wanted(len(samples)) * part.samples, position) for layer in moments
        }

    def add(rows: dict[LayerInput, Floats]) -> None:
        for layer, found in rows.items():
            moments[layer].add(found)

    observe(model, [layer.tensor for layer in moments], samples, take, add, "layers")
    return moments
