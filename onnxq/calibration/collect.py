"""Two passes over the samples: one sketches the planned tensors, one sums the moments of layer inputs."""

import hashlib
import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import onnx_ir as ir

from onnxq.calibration.batches import Measure as MeasureParts
from onnxq.calibration.batches import Part, Pass, observe
from onnxq.calibration.channels import add_channels, channel_ranges
from onnxq.calibration.moments import (
    LAYER_MEMORY,
    LayerInput,
    LayerRows,
    Moments,
    empty_moments,
    kept_layers,
    take_rows,
)
from onnxq.calibration.sketch import BINS, NO_BINS, Histogram, Measured, Sketch, measure
from onnxq.calibration.statistics import Statistics
from onnxq.data.sample import Sample
from onnxq.data.samples import spread
from onnxq.errors import DataError
from onnxq.plan.relu_addends import find_addends
from onnxq.runtime.machine import available_cores
from onnxq.runtime.parallel import IN_PROCESS, Executor, in_order
from onnxq.types import Array, Feeds, Floats

COUNTED = 1 << 13
"""Values of a tensor counted per sample by default.

Of a larger tensor an evenly spaced part is counted; its minimum and maximum are still exact.
"""
WAITING = 16 << 20
"""Most bytes of bin numbers, over all tensors, that wait to be counted."""


@dataclass(frozen=True)
class MomentOptions:
    """Options of `collect_moments`.

    second  second moments too, for as many layers as fit into memory
    most    bytes of one layer's second moments
    rows    factor on the number of rows that 8-bit weights need
    """

    second: bool
    most: int = LAYER_MEMORY
    rows: float = 1.0


class Derived(Protocol):
    """Values computed from those of other tensors."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of these tensors."""

    def of(self, values: Feeds) -> Array:
        """Compute the values from the values of all tensors, by name."""


@dataclass(frozen=True)
class Divided:
    """A tensor divided channel by channel.

    tensor  name of the tensor in the model
    scales  divisors [channels]
    axis    axis of the channels
    """

    tensor: str
    scales: Floats
    axis: int = 1

    @property
    def tensors(self) -> tuple[str]:
        """The name of the tensor before division."""
        return (self.tensor,)

    def of(self, values: Feeds) -> Array:
        """Divide the tensor's values."""
        whole = values[self.tensor]
        behind = (whole.ndim - 1 - self.axis) % whole.ndim
        return np.asarray(whole * self.factors.reshape(-1, *[1] * behind))

    @property
    def factors(self) -> Floats:
        """The inverse of the divisors, [channels]: a division is written as a multiplication by them."""
        return (1 / self.scales).astype(np.float32)


@dataclass(frozen=True)
class Collecting:
    """Options of `collect`.

    first    number of samples before these, in another shard of the same data
    allow_nonfinite  leave NaN and infinite values out, and count them
    divided  additional tensors of other forms of the model, by name
    counted  values of a tensor counted per sample
    probes   further values whose range alone is wanted, whatever they are: conditions, iteration numbers
    channels  tensors of which the range of each channel of the last axis is wanted
    shard    (k, n) for the k-th of n parts of the samples
    """

    first: int = 0
    allow_nonfinite: bool = False
    divided: Mapping[str, Divided] = field(default_factory=dict)
    counted: int = COUNTED
    probes: Sequence[str] = ()
    channels: Sequence[str] = ()
    shard: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Counted:
    """One part as counted.

    samples   number of samples
    ranges    exact numbers by tensor, with the bins of the counted values until they are packed
    left_out  number of NaN and infinite values
    channels  minimum and maximum of each channel, [2, channels] by tensor
    packed    histograms by tensor, of this part and of those packed together with it, which hold the channels
              of all of these, too
    """

    samples: int
    ranges: Mapping[str, Measured]
    left_out: int
    channels: Mapping[str, Floats] = field(default_factory=dict)
    packed: Mapping[str, Histogram] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Count(MeasureParts[Counted]):
    """Counts the values of tensors.

    tensors  names of the tensors
    derived  tensors computed from others, by name
    how      options
    """

    tensors: Sequence[str]
    derived: Mapping[str, Derived]
    how: Collecting

    def needs(self) -> Mapping[Hashable, Sequence[str]]:
        """Return the tensors that each tensor, probe, or tensor with channels is computed from."""
        names = dict.fromkeys((*self.tensors, *self.how.probes, *self.how.channels))
        return {name: self.derived[name].tensors if name in self.derived else (name,) for name in names}

    def only(self, keys: Collection[Hashable]) -> "Count":
        """Count some tensors, probes and channels alone."""
        probes, channels = (
            [name for name in names if name in keys] for names in (self.how.probes, self.how.channels)
        )
        how = replace(self.how, probes=probes, channels=channels)
        return replace(self, tensors=[name for name in self.tensors if name in keys], how=how)

    def joined(self, results: Sequence[Counted]) -> Counted:
        """Put the counts of different tensors together."""
        ranges = {name: measured for each in results for name, measured in each.ranges.items()}
        channels = {name: found for each in results for name, found in each.channels.items()}
        return Counted(results[0].samples, ranges, sum(each.left_out for each in results), channels)

    def __call__(self, part: Part, position: int) -> Counted:
        """Count the values of a part.

        Raises:
            DataError: a value is NaN or infinite.
        """
        how, ranges, left_out = self.how, dict[str, Measured](), 0
        for name in self.tensors:
            values = self.derived[name].of(part.values) if name in self.derived else part.values[name]
            stride = _stride(values.size, how.counted * part.samples)
            measured = measure(values, stride=stride, offset=how.first + position)
            if measured is not None and not (np.isfinite(measured.low) and np.isfinite(measured.high)):
                finite = values[np.isfinite(values)]
                if not how.allow_nonfinite:
                    raise _not_finite(part, name, values)
                left_out += values.size - finite.size
                measured = measure(finite, stride=stride, offset=how.first + position)
            if measured is not None:
                ranges[name] = measured
        for name in how.probes:
            found = part.values[name]
            if found.size and name not in ranges:
                ranges[name] = Measured(float(found.min()), float(found.max()), found.size, NO_BINS)
        channels = {
            name: channel_ranges(part.values[name]) for name in how.channels if part.values[name].size
        }
        return Counted(part.samples, ranges, left_out, channels)

    def packed(self, results: Sequence[Counted]) -> Sequence[Counted]:
        """Put the counts of all parts into the first one."""
        bins, channels = dict[str, list[Array]](), dict[str, Floats]()
        for each in results:
            for name, measured in each.ranges.items():
                bins.setdefault(name, []).append(measured.bins)
            add_channels(channels, each.channels)
        together = {name: Histogram.of(each) for name, each in bins.items()}
        return [
            Counted(
                each.samples,
                {name: measured.without_bins() for name, measured in each.ranges.items()},
                each.left_out,
                {} if i else channels,
                {} if i else together,
            )
            for i, each in enumerate(results)
        ]


def collect(
    model: ir.Model,
    names: Sequence[str],
    samples: Sequence[Sample],
    digest: str,
    how: Collecting | None = None,
    executor: Executor = IN_PROCESS,
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
        executor: where the model runs.

    Raises:
        DataError: a sample does not fit the model, or a value is NaN or infinite.
    """
    how = how or Collecting()
    derived: dict[str, Derived] = {**find_addends(model, names), **how.divided}
    tensors = list(dict.fromkeys((*names, *how.divided)))
    statistics = Statistics(digest, sketches={name: Sketch() for name in (*tensors, *how.probes)})
    most = min(BINS, max(how.counted, WAITING // NO_BINS.itemsize // max(len(tensors), 1)))

    def add(counted: Counted) -> None:
        for name, measured in counted.ranges.items():
            statistics.sketches[name].count(measured.bins, most)
            statistics.sketches[name].add_range(measured)
        for name, histogram in counted.packed.items():
            statistics.sketches[name].add_counts(histogram)
        add_channels(statistics.channels, counted.channels)
        statistics.samples += counted.samples
        statistics.nonfinite += counted.left_out

    data = Pass(samples, "calibrate", executor, how.shard)
    statistics.contents = observe(model, data, Count(tensors, derived, how), add)
    statistics.data = hashlib.sha256(statistics.contents).hexdigest()
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


@dataclass(frozen=True, eq=False)
class TakeRows(MeasureParts[Mapping[LayerInput, Floats]]):
    """Takes rows of layers' inputs; `wanted` is their number per sample."""

    wanted: Mapping[LayerInput, int]

    def needs(self) -> Mapping[Hashable, Sequence[str]]:
        """Return the tensor of each layer input."""
        return {layer: (layer.tensor,) for layer in self.wanted}

    def only(self, keys: Collection[Hashable]) -> "TakeRows":
        """Take the rows of some layers alone."""
        return TakeRows({layer: count for layer, count in self.wanted.items() if layer in keys})

    def joined(self, results: Sequence[Mapping[LayerInput, Floats]]) -> Mapping[LayerInput, Floats]:
        """Put the rows of different layers together."""
        return {layer: rows for each in results for layer, rows in each.items()}

    def __call__(self, part: Part, position: int) -> Mapping[LayerInput, Floats]:
        """Take the rows of a part, [rows, groups, size] each."""
        return {
            layer: take_rows(layer, part.values[layer.tensor], count * part.samples, position)
            for layer, count in self.wanted.items()
        }


def collect_rows(model: ir.Model, layers: Iterable[LayerInput], data: Pass, few: int) -> LayerRows:
    """Take the rows of which the moments of layer inputs are summed, so that parts of samples can be merged.

    Layers with few rows in a sample take them from more samples, as many as the first sample shows.

    Args:
        model: the normalized float model.
        layers: the layer inputs.
        data: all samples, and the part of them to run.
        few: number of samples that is enough for most layers.
    """
    kept = kept_layers(layers)
    first = _rows(model, kept, Pass(data.samples[:1], data.title))
    available = {layer: max(1, len(parts[0])) for layer, parts in first.items() if parts}
    everything, samples = len(data.samples), spread(data.samples, few)
    needed = {layer: math.ceil(layer.wanted(1) / available.get(layer, 1)) for layer in kept}
    scarce = [layer for layer, count in needed.items() if len(samples) < count <= 2 * everything]
    more = min(everything, max((needed[layer] for layer in scarce), default=0))
    rows = _rows(model, [layer for layer in kept if layer not in scarce], replace(data, samples=samples))
    return rows | _rows(model, scarce, replace(data, samples=spread(data.samples, more)))


def _rows(model: ir.Model, layers: Sequence[LayerInput], data: Pass) -> LayerRows:
    """Take evenly spaced rows of a part of the samples; the number per sample is that of one pass."""
    rows: LayerRows = {layer: [] for layer in layers}

    def add(taken: Mapping[LayerInput, Floats]) -> None:
        for layer, found in taken.items():
            rows[layer].append(found)

    if layers:
        take = TakeRows({layer: layer.wanted(len(data.samples)) for layer in layers})
        observe(model, data, take, add)
    return rows


def collect_moments(
    model: ir.Model,
    layers: Iterable[LayerInput],
    samples: Sequence[Sample],
    how: MomentOptions,
    executor: Executor = IN_PROCESS,
) -> dict[LayerInput, Moments]:
    """Sum the moments of layer inputs over the samples.

    The rows are added in the order of the samples, wherever they were taken.

    Args:
        model: the normalized float model.
        layers: the layer inputs.
        samples: read one by one; a few dozen are enough.
        how: rows and memory.
        executor: where the model runs.
    """
    moments = empty_moments(layers, second=how.second, most=how.most)
    take = TakeRows({layer: layer.wanted(len(samples), how.rows) for layer in moments})

    def add(taken: Mapping[LayerInput, Floats]) -> None:
        for layer, found in taken.items():
            moments[layer].take(found)
        _flush([moments[layer] for layer in taken if moments[layer].full()])

    observe(model, Pass(samples, "layers", executor), take, add)
    _flush(list(moments.values()))
    return moments


def _flush(full: Sequence[Moments]) -> None:
    """Multiply the rows that wait in some moments, side by side."""
    for _ in in_order(Moments.flush, full, min(len(full), available_cores())):
        pass
