"""First and second moments of layer inputs: E[x] and E[x x^T], where a layer computes W x.

A layer's input is a set of rows x of length K: the rows of a matrix, or the patches under a
convolution's kernel (im2col), in kernel order (see `techniques.saturation`). A sample has more rows
than are needed, so evenly spaced ones are taken from each. GPTQ needs the second moments (its Hessian
is 2 E[x x^T]), bias correction the mean, and smoothing and equalization the range and power by channel.

Per layer: `layer_input` describes the rows, `take_rows` takes them from an activation, and `Moments`
sums over them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import attribute, sizes
from onnxq.types import Array, Floats

MOST_ROWS, LEAST_ROWS, ROWS_PER_COLUMN = 4096, 256, 4
"""Rows wanted of a layer over all samples: four per column, within these bounds."""
RUN_LENGTH = 8
"""Neighbouring rows taken together; they share cache lines."""
WAITING = 64 << 20
"""Most bytes of rows of all layers that wait until they are multiplied together.

A product of few rows spends its time on the sum, so layers with a large sum get the larger share.
"""
MEMORY, LAYER_MEMORY = 256 << 20, 64 << 20
"""Bytes of second moments, of all layers and of one layer; layers beyond them have none."""


@dataclass(frozen=True)
class LayerInput:
    """The input that a layer multiplies its weights with; layers with the same input (Q, K, V) share it.

    tensor  name of the activation
    groups, size  of the rows: [groups, size] at each position; size is K
    kernel  spatial geometry of a convolution, None for a matrix product
    transposed  whether a matrix is read by columns (Gemm with transA)
    """

    tensor: str
    groups: int
    size: int
    kernel: "Kernel | None" = None
    transposed: bool = False

    @staticmethod
    def of(fields: Mapping[str, Any]) -> "LayerInput":
        """Make a layer input from its fields as JSON has them; raise a `TypeError` for others."""
        kernel = fields["kernel"]
        if kernel is not None:
            values: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in kernel.items()
            }
            kernel = Kernel(**values)
        return LayerInput(**{**fields, "kernel": kernel})

    def wanted(self, samples: int, more: float = 1.0) -> int:
        """Return the number of rows to take from each of `samples` samples.

        `more` is a factor on the number of rows that 8-bit weights need.
        """
        least = LEAST_ROWS * max(more, 1.0)
        total = min(max(more * ROWS_PER_COLUMN * self.size, least), more * MOST_ROWS)
        return math.ceil(total / max(samples, 1))


@dataclass(frozen=True)
class Kernel:
    """Geometry of a convolution; each tuple has one number per spatial axis, `pads` two (ONNX order)."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...] | None
    auto_pad: str


def layer_input(node: ir.Node, tensor: str) -> LayerInput | None:
    """Describe the input of a Conv, Gemm or MatMul; None where the weight's shape is not known."""
    weight = sizes(node.inputs[1])
    if weight is None:
        return None
    if node.op_type != "Conv":
        axis = 1 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 0
        return LayerInput(tensor, 1, weight[axis], None, bool(attribute(node, "transA", 0)))
    spatial = len(weight) - 2
    groups = attribute(node, "group", 1)
    assert isinstance(groups, int)
    pads = node.attributes.get("pads")
    kernel = Kernel(
        tuple(weight[2:]),
        _numbers(node, "strides", spatial),
        _numbers(node, "dilations", spatial),
        tuple(pads.as_ints()) if pads is not None else None,
        str(attribute(node, "auto_pad", "NOTSET")),
    )
    return LayerInput(tensor, groups, int(np.prod(weight[1:])), kernel)


def _numbers(node: ir.Node, name: str, count: int) -> tuple[int, ...]:
    found = node.attributes.get(name)
    return tuple(found.as_ints()) if found is not None else (1,) * count


def kept_layers(layers: Iterable[LayerInput]) -> list[LayerInput]:
    """Return the layers whose rows of all samples are kept, the smallest first, up to `MEMORY` bytes."""
    kept, used = [], 0
    for layer in sorted(dict.fromkeys(layers), key=lambda layer: layer.groups * layer.size):
        used += 4 * layer.groups * layer.size * layer.wanted(1)
        if used <= MEMORY:
            kept.append(layer)
    return kept


def take_rows(layer: LayerInput, values: Array, count: int, offset: int) -> Floats:
    """Take at most `count` rows [rows, groups, size] of one sample's activation.

    Args:
        layer: the layer input.
        values: the activation.
        count: the most rows.
        offset: shifts the evenly spaced positions, so that samples differ in them.
    """
    if values.size == 0:  # a branch that is not taken, or a loop without iterations
        return np.zeros((0, layer.groups, layer.size), np.float32)
    if layer.kernel is None:
        matrix = values.T if layer.transposed else values
        if layer.groups > 1:  # directions of an LSTM's output [seq, directions, batch, hidden]
            matrix = np.moveaxis(values, 1, -2)
        matrix = matrix.reshape(-1, layer.groups, layer.size)
        return np.ascontiguousarray(matrix[_positions(len(matrix), count, offset)], np.float32)
    if _pointwise(layer.kernel):
        flat = values.reshape(*values.shape[:2], -1)
        batch, place = np.divmod(_positions(len(flat) * flat.shape[2], count, offset), flat.shape[2])
        if len(flat) == 1:
            return np.ascontiguousarray(flat[0].take(place, axis=1).T, np.float32).reshape(
                -1, layer.groups, layer.size
            )
        return np.ascontiguousarray(np.moveaxis(flat, 1, 2)[batch, place], np.float32).reshape(
            -1, layer.groups, layer.size
        )
    patches = _patches(values, layer.kernel, count, offset)  # [rows, *kernel, C]
    rows, channels = len(patches), values.shape[1]
    grouped = patches.reshape(rows, *layer.kernel.shape, layer.groups, channels // layer.groups)
    return np.ascontiguousarray(np.moveaxis(grouped, -2, 1), np.float32).reshape(
        rows, layer.groups, layer.size
    )


def _pointwise(kernel: Kernel) -> bool:
    """Check whether a convolution is 1 x 1 with stride 1 and without padding."""
    ones = all(n == 1 for n in (*kernel.shape, *kernel.strides))
    return ones and not any(kernel.pads or ()) and kernel.auto_pad in ("NOTSET", "VALID")


def _positions(available: int, count: int, offset: int) -> Array:
    """Return at most `count` row numbers below `available`, evenly spaced and shifted by `offset`.

    They come in runs of RUN_LENGTH, which lie together in memory.
    """
    if available <= count:
        return np.arange(available)
    runs = -(-count // RUN_LENGTH)
    starts = (np.arange(runs) * available) // runs + offset * 7919
    return (starts[:, None] + np.arange(RUN_LENGTH)).reshape(-1)[:count] % available


def _patches(values: Array, kernel: Kernel, count: int, offset: int) -> Array:
    """Return at most `count` patches [rows, *kernel, C], with 0 where they lie in the padding."""
    spatial, lengths = len(kernel.shape), values.shape[2:]
    extent = [(k - 1) * d + 1 for k, d in zip(kernel.shape, kernel.dilations, strict=True)]
    pads = _pads(lengths, extent, kernel)
    ends = zip(lengths, pads, extent, kernel.strides, strict=True)
    counts = (len(values), *((size + sum(pair) - width) // step + 1 for size, pair, width, step in ends))
    batch, *corners = np.unravel_index(_positions(math.prod(counts), count, offset), counts)
    # indices of the patches' values along each axis
    axes: list[Array] = []
    inside: Array = np.ones((len(batch), *[1] * spatial), bool)
    for axis, (corner, size, (before, _)) in enumerate(zip(corners, lengths, pads, strict=True)):
        steps = np.arange(kernel.shape[axis]) * kernel.dilations[axis] - before
        along = np.expand_dims(
            corner[:, None] * kernel.strides[axis] + steps,
            tuple(1 + other for other in range(spatial) if other != axis),
        )
        inside = inside & (along >= 0) & (along < size)
        axes.append(np.clip(along, 0, size - 1))
    # a padded copy of the whole value would take longer than all else
    first = np.expand_dims(batch, tuple(range(1, 1 + spatial)))
    where: tuple[Any, ...] = first, slice(None), *axes
    patches: Array = values[where]
    if not inside.all():
        patches[~inside] = 0
    return patches


def _pads(shape: Sequence[int], extent: Sequence[int], kernel: Kernel) -> list[tuple[int, int]]:
    """Return the padding before and after each spatial axis."""
    if kernel.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        pairs = []
        for size, width, stride in zip(shape, extent, kernel.strides, strict=True):
            total = max((-(-size // stride) - 1) * stride + width - size, 0)
            small = total // 2
            pairs.append(
                (small, total - small) if kernel.auto_pad == "SAME_UPPER" else (total - small, small)
            )
        return pairs
    if kernel.auto_pad == "VALID" or kernel.pads is None:
        return [(0, 0)] * len(shape)
    count = len(shape)
    return [(kernel.pads[i], kernel.pads[i + count]) for i in range(count)]


@dataclass
class Moments:
    """Sums over a layer's rows.

    Rows are added in the order of the samples, so that the sums repeat bit by bit.

    first    [groups, size], sum of x
    squares  [groups, size], sum of x^2
    low, high  [groups, size], minimum and maximum; inf and -inf without rows
    second   [groups, size, size], sum of x x^T; None where it is not wanted
    rows     number of rows
    chunk    bytes of rows that wait until they are multiplied together
    scales   [groups, size], divisors still to be applied to `second`: `second` is as large as the
             weights, so divided moments share it instead of copying it
    """

    first: Array
    squares: Array
    low: Array
    high: Array
    second: Array | None
    rows: int = 0
    chunk: int = 0
    scales: Floats | None = None
    _waiting: list[Floats] = field(default_factory=list)

    @staticmethod
    def of(layer: LayerInput, *, second: bool) -> "Moments":
        """Return empty moments for a layer."""
        shape = (layer.groups, layer.size)
        products = np.zeros((*shape, layer.size), np.float32) if second else None
        return Moments(
            np.zeros(shape), np.zeros(shape), np.full(shape, np.inf), np.full(shape, -np.inf), products
        )

    def add(self, rows: Floats) -> None:
        """Add rows [rows, groups, size]; a row with a NaN or infinite value is left out."""
        self.take(rows)
        if self.full():
            self.flush()

    def take(self, rows: Floats) -> None:
        """Add rows as `add` does, but leave their products to `flush`, which is due when `full`."""
        if len(rows) == 0:
            return
        low, high = rows.min(axis=0), rows.max(axis=0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            self.take(rows[np.isfinite(rows).all(axis=(1, 2))])
            return
        self.first += rows.sum(axis=0)
        self.squares += np.einsum("rgs,rgs->gs", rows, rows)  # without an array of squares
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.rows += len(rows)
        if self.second is not None:
            self._waiting.append(rows)

    def full(self) -> bool:
        """Check whether enough rows wait to be multiplied together."""
        return bool(self._waiting) and sum(each.nbytes for each in self._waiting) >= self.chunk

    def flush(self) -> None:
        """Multiply the rows that wait; then several threads may read the moments."""
        if self._waiting and self.second is not None:
            rows = np.concatenate(self._waiting).transpose(1, 0, 2)
            self.second += rows.transpose(0, 2, 1) @ rows
            self._waiting = []

    def mean(self) -> Floats:
        """Return E[x], [groups, size]; 0 without rows."""
        return (self.first / max(self.rows, 1)).astype(np.float32)

    def power(self) -> Floats:
        """Return E[x^2], [groups, size]; 0 without rows."""
        return (self.squares / max(self.rows, 1)).astype(np.float32)

    def divided(self, scales: Floats) -> "Moments":
        """Return the moments of x / scales; `scales` is [size] or [groups, size]."""
        self.flush()
        changed = self.first / scales, self.squares / scales**2, self.low / scales, self.high / scales
        return Moments(
            *changed, self.second, self.rows, scales=scales if self.scales is None else self.scales * scales
        )

    def raw(self) -> Floats | None:
        """Return E[x x^T], [groups, size, size]; None where it is not known.

        Entries of channels that are next to nothing may underflow to 0.
        """
        self.flush()
        if self.second is None or self.rows == 0:
            return None
        products = self.second / self.rows
        if self.scales is not None:
            pairs = (self.scales[..., :, None] * self.scales[..., None, :]).astype(np.float32)
            # of channels that are next to nothing, products and divisors both underflow to 0
            some = (products != 0) | (pairs != 0)
            products = np.divide(products, pairs, out=np.zeros_like(products), where=some)
        return np.asarray(products, np.float32)

    def covariance(self) -> Floats | None:
        """Return E[x x^T] - E[x] E[x]^T, [groups, size, size]; None where it is not known."""
        raw, mean = self.raw(), self.mean()
        return None if raw is None else raw - mean[:, :, None] * mean[:, None, :]


LayerRows = dict[LayerInput, list[Floats]]
"""Rows [rows, groups, size] of each layer's input, in parts in the order of the samples."""


def moments_of_rows(
    rows: LayerRows, layers: Iterable[LayerInput], *, second: bool
) -> dict[LayerInput, Moments]:
    """Sum the moments of the layers that have rows, part by part as one pass over the samples does."""
    moments = empty_moments([layer for layer in layers if layer in rows], second=second)
    for layer, found in moments.items():
        for part in rows[layer]:
            found.add(part)
        found.flush()
    return moments


def empty_moments(
    layers: Iterable[LayerInput], *, second: bool, most: int = LAYER_MEMORY
) -> dict[LayerInput, Moments]:
    """Return empty moments by layer; second moments for the smallest layers, as many as fit into memory."""
    chosen, used = set[LayerInput](), 0
    unique = dict.fromkeys(layers)
    for layer in sorted(unique, key=lambda layer: layer.groups * layer.size**2):
        size = 4 * layer.groups * layer.size**2
        used += size
        if used > max(MEMORY, most) or size > most:
            break
        chosen.add(layer)
    found = {layer: Moments.of(layer, second=second and layer in chosen) for layer in unique}
    sizes = {layer: moments.second.nbytes for layer, moments in found.items() if moments.second is not None}
    share = min(1.0, WAITING / max(1, sum(sizes.values())))
    for layer, size in sizes.items():
        found[layer].chunk = int(share * size)
    return found
