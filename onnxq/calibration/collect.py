"""Two passes over the samples: one sketches the planned tensors, one sums the moments of layer inputs."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import onnx_ir as ir

from onnxq.calibration.batches import Part, observe
from onnxq.calibration.moments import LAYER_MEMORY, LayerInput, Moments, empty_moments, take_rows
from onnxq.calibration.sketch import BINS, Measured, Sketch, measure
from onnxq.calibration.statistics import Statistics
from onnxq.data.sample import Sample
from onnxq.errors import DataError
from onnxq.plan.relu_addends import find_addends
from onnxq.types import Array, Feeds, Floats

COUNTED = 1 << 13
"""Values of a tensor counted per sample by default.

Of a larger tensor an evenly spaced part is counted; its minimum and maximum are still exact.
"""
WAITING = 16 << 20
"""Most bytes of bin numbers, over all tensors, that wait to be counted."""
NO_BINS = np.zeros(0, np.uint16)


class Derived(Protocol):
    """Values computed from those of other tensors."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of these tensors."""

    def of(self, values: Feeds) -> Array:
        """Compute the values from the values of all tensors, by name."""


@dataclass(frozen=True)
class Divided:
    """A tensor divided channel by channel, along axis 1.

    tensor  name of the tensor in the model
    scales  divisors [channels]
    """

    tensor: str
    scales: Floats

    @property
    def tensors(self) -> tuple[str]:
        """The name of the tensor before division."""
        return (self.tensor,)

    def of(self, values: Feeds) -> Array:
        """Divide the tensor's values."""
        whole = values[self.tensor]
        return np.asarray(whole / self.scales.astype(np.float32).reshape(-1, *[1] * (whole.ndim - 2)))


@dataclass(frozen=True)
class Collecting:
    """Options of `collect`.

    first    number of samples before these, in another shard of the same data
    allow_nonfinite  leave NaN and infinite values out, and count them
    divided  additional tensors of other forms of the model, by name
    counted  values of a tensor counted per sample
    probes   further values whose range alone is wanted, whatever they are: conditions, iteration numbers
    """

    first: int = 0
    allow_nonfinite: bool = False
    divided: Mapping[str, Divided] = field(default_factory=dict)
    counted: int = COUNTED
    probes: Sequence[str] = ()


def collect(
    model: ir.Model,
    names: Sequence[str],
    samples: Sequence[Sample],
    digest: str,
    how: Collecting | None = None,
) -> Statistics:
    """Collect a sketch of each named value over the samples.

    Of an addend in front of a clamp, only the part that passes the clamp counts (see
    `plan.relu_addends`).

    Args:
        model: the normalized float model.
        names: values of the main graph, graph inputs among them.
        samples: read one by one.
        digest: SHA-256 of the model file that the statistics belong to.
        how: further options.

    Raises:
        DataError: a sample does not fit the model, or a value is NaN or infinite.
    """
    how = how or Collecting()
    derived: dict[str, Derived] = {**find_addends(model, names), **how.divided}
    statistics = Statistics(digest, sketches={name: Sketch() for name in (*names, *how.divided)})
    most = min(BINS, max(how.counted, WAITING // NO_BINS.itemsize // max(len(statistics.sketches), 1)))
    locks = {name: threading.Lock() for name in statistics.sketches}
    probes = [name for name in how.probes if name not in statistics.sketches]

    def count(part: Part, position: int, name: str) -> tuple[Measured | None, int]:
        values = derived[name].of(part.values) if name in derived else part.values[name]
        if name not in locks:
            return (_range_of(values), 0) if values.size else (None, 0)
        stride, left_out = _stride(values.size, how.counted * part.samples), 0
        measured = measure(values, stride=stride, offset=how.first + position)
        if measured is not None and not (np.isfinite(measured.low) and np.isfinite(measured.high)):
            finite = values[np.isfinite(values)]
            if not how.allow_nonfinite:
                raise _not_finite(part, name, values)
            left_out = values.size - finite.size
            measured = measure(finite, stride=stride, offset=how.first + position)
        if measured is None:
            return None, left_out
        with locks[name]:
            statistics.sketches[name].count(measured.bins, most)
        return replace(measured, bins=NO_BINS), left_out

    def add(name: str, result: tuple[Measured | None, int]) -> None:
        measured, left_out = result
        if measured is not None:
            statistics.sketches[name].add_range(measured)
        statistics.nonfinite += left_out

    statistics.sketches |= {name: Sketch() for name in probes}
    requests = {name: derived[name].tensors if name in derived else (name,) for name in statistics.sketches}
    statistics.data = observe(model, requests, samples, count, add, "calibrate")
    statistics.samples = len(samples)
    return statistics


def _range_of(values: Array) -> Measured:
    return Measured(float(values.min()), float(values.max()), values.size, NO_BINS)


def _not_finite(part: Part, name: str, values: Array) -> DataError:
    wrong = ~np.isfinite(np.atleast_1d(values))
    sample = part.sample_of(int(np.argwhere(wrong)[0, 0]), len(wrong))
    return DataError(
        f"sample {sample}: tensor '{name}' holds {np.count_nonzero(wrong)} NaN or infinite values: "
        "remove the sample, exclude the node that makes them with --exclude, or leave them out with "
        "--allow-nonfinite"
    )


def _stride(size: int, most: int) -> int:
    # an odd stride and a moving start reach every channel of layouts with even sizes
    return 1 if size <= most else (size // most) | 1


def collect_moments(
    model: ir.Model,
    layers: Iterable[LayerInput],
    samples: Sequence[Sample],
    *,
    second: bool,
    most: int = LAYER_MEMORY,
    rows: float = 1.0,
) -> dict[LayerInput, Moments]:
    """Sum the moments of layer inputs over the samples.

    Args:
        model: the normalized float model.
        layers: the layer inputs.
        samples: read one by one; a few dozen are enough.
        second: second moments too, for as many layers as fit into memory.
        most: bytes of one layer's second moments.
        rows: factor on the number of rows that 8-bit weights need.
    """
    moments = empty_moments(layers, second=second, most=most)
    wanted = {layer: layer.wanted(len(samples), rows) for layer in moments}

    def take(part: Part, position: int, layer: LayerInput) -> Floats:
        return take_rows(layer, part.values[layer.tensor], wanted[layer] * part.samples, position)

    def add(layer: LayerInput, rows: Floats) -> None:
        moments[layer].add(rows)

    requests = {layer: (layer.tensor,) for layer in moments}
    observe(model, requests, samples, take, add, "layers")
    for found in moments.values():
        found.flush()
    return moments
