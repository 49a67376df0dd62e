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

    def count(part: Part, position: int) -> tuple[int, dict[str, Measured], int]:
        ranges, left_out = {}, 0
        for name in locks:
            sketch = statistics.sketches[name]
            values = derived[name].of(part.values) if name in derived else part.values[name]
            stride = _stride(values.size, how.counted * part.samples)
            measured = measure(values, stride=stride, offset=how.first + position)
            if measured is not None and not (np.isfinite(measured.low) and np.isfinite(measured.high)):
                finite = values[np.isfinite(values)]
                if not how.allow_nonfinite:
                    raise _not_finite(part, name, values)
                left_out += values.size - finite.size
                measured = measure(finite, stride=stride, offset=how.first + position)
            if measured is None:
                continue
            with locks[name]:
                sketch.count(measured.bins, most)
            ranges[name] = replace(measured, bins=NO_BINS)
        for name in probes:
            found = part.values[name]
            if found.size:
                ranges[name] = Measured(float(found.min()), float(found.max()), found.size, NO_BINS)
        return part.samples, ranges, left_out

    def add(result: tuple[int, dict[str, Measured], int]) -> None:
        for name, measured in result[1].items():
            statistics.sketches[name].add_range(measured)
        statistics.samples += result[0]
        statistics.nonfinite += result[2]

    statistics.sketches |= {name: Sketch() for name in probes}
    observed = [*names, *probes, *(tensor for one in derived.values() for tensor in one.tensors)]
    statistics.data = observe(model, observed, samples, count, add, "calibrate")
    return statistics


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

    def take(part: Part, position: int) -> dict[LayerInput, Floats]:
        return {
            layer: take_rows(layer, part.values[layer.tensor], wanted[layer] * part.samples, position)
            for layer in moments
        }

    def add(taken: dict[LayerInput, Floats]) -> None:
        for layer, found in taken.items():
            moments[layer].add(found)

    observe(model, [layer.tensor for layer in moments], samples, take, add, "layers")
    for found in moments.values():
        found.flush()
    return moments
