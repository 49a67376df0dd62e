"""Trained weights of integer kernels and of blocks, and the growth of their scales."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from onnxq.finetuning.integer_product import Product
from onnxq.quantization.parameters import Place
from onnxq.techniques.arithmetic import along
from onnxq.techniques.blockwise import Coded, as_blocks, spread
from onnxq.techniques.gptq import gptq_round
from onnxq.techniques.gptq_blocks import gptq_codes
from onnxq.techniques.saturation import kernel_order, original_order, round_pair_safe
from onnxq.types import Array, Floats, Integers, QuantParams

CELL = 0.25
"""Farthest distance of a latent weight from its integer at the start, in steps.

Closer to the edge of the cell, the first steps undo what GPTQ chose: half of these weights flip by chance.
"""
SCALE_RANGE = 0.5, 2.0
"""Bounds of a trained scale, as multiples of the calibrated one: biases keep their room in int32."""


@dataclass(frozen=True, eq=False)
class Weight(ABC):
    """A quantized weight; the trained value is the weight in steps of its scale.

    origin  the float weight
    start   trained value at the start, in the shape of the weight
    axis    channel axis
    """

    origin: Floats
    start: Floats
    axis: int

    @property
    @abstractmethod
    def unit(self) -> Floats:
        """Real value of one step, which broadcasts to the weight."""

    @property
    @abstractmethod
    def range(self) -> tuple[Floats | int, Floats | int]:
        """Least and largest integer, which broadcast to the weight."""

    @abstractmethod
    def rounded(self, rows: Floats, second: Floats) -> Integers:
        """Round other weights to integers by GPTQ.

        Args:
            rows: real weights, [groups, channels, K].
            second: second moments of their inputs, [groups, K, K].
        """

    def integers(self, value: Floats) -> Floats:
        """Return the integers of a trained value, as floats."""
        return np.clip(np.rint(value), *self.range)

    def fed(self, value: Floats) -> Floats:
        """Return the weight that the graph computes with, without the growth of its scale."""
        return np.asarray(self.integers(value) * self.unit, np.float32)

    def sent(self, value: Floats, growth: Floats) -> Array | Product:
        """Return the weight that the graph computes with, in the form in which it travels."""
        return np.asarray(self.fed(value) * growth, np.float32)

    def clipped(self, value: Floats) -> Floats:
        """Return a trained value within the range."""
        low, high = self.range
        return np.asarray(np.clip(value, low - CELL, high + CELL), np.float32)


@dataclass(frozen=True, eq=False)
class ChannelWeight(Weight):
    """A weight of an integer kernel, with a scale per channel or one for all.

    place      of one of its uses
    params     parameters of the stored integers
    limit      largest magnitude of an integer
    pair_safe  whether pairs obey the pair rule
    """

    place: Place
    params: QuantParams
    limit: int
    pair_safe: bool

    @property
    def unit(self) -> Floats:
        """Real value of one step, which broadcasts to the weight."""
        return along(self.params.scale, self.params.axis, self.start.ndim)

    @property
    def range(self) -> tuple[int, int]:
        """Least and largest integer."""
        return -self.limit, self.limit

    def rounded(self, rows: Floats, second: Floats) -> Integers:
        """Round other weights to integers by GPTQ."""
        unit = kernel_order(np.broadcast_to(self.unit, self.start.shape), self.axis)
        scales = np.ascontiguousarray(unit.reshape(rows.shape)[..., 0])
        return gptq_round(rows, second, scales, pair_safe=self.pair_safe, limit=self.limit)

    def integers(self, value: Floats) -> Floats:
        """Return the integers of a trained value, as floats: rounded, within the limit, and pair-safe."""
        if not self.pair_safe:
            return super().integers(value)
        rows = kernel_order(value, self.axis)
        stored = round_pair_safe(rows, np.ones(len(rows), np.float32))
        return original_order(stored.astype(np.float32), value.shape, self.axis)

    def sent(self, value: Floats, growth: Floats) -> Product:
        """Return the weight that the graph computes with as its integers."""
        return Product(self.integers(value).astype(np.int8), (self.unit, growth))


@dataclass(frozen=True, eq=False)
class BlockWeight(Weight):
    """A weight [channels, K] or [K, channels] in blocks of few bits.

    node   name of its product
    coded  scales, zero points and codes at the start
    """

    node: str
    coded: Coded

    @property
    def unit(self) -> Floats:
        """Real value of one step, in the shape of the weight."""
        return self._spread(self.coded.scales)

    @property
    def range(self) -> tuple[Floats | int, Floats | int]:
        """Least and largest integer, codes without their zero point, which broadcast to the weight."""
        grid = self.coded.grid
        zeros = grid.middle if grid.symmetric else self._spread(self.coded.zeros.astype(np.float32))
        return -zeros, grid.top - zeros

    def rounded(self, rows: Floats, second: Floats) -> Integers:
        """Round other weights to integers by GPTQ."""
        found = gptq_codes(rows[0], second[0], self.coded.grid, self.coded.scales, self.coded.zeros)
        zeros = spread(found.zeros, found.grid.block, found.codes.shape[1])
        return (found.codes.astype(np.int16) - zeros)[None]

    def codes(self, value: Floats, growth: Floats) -> Coded:
        """Return the codes of a trained value, whose scales have grown.

        Args:
            value: the trained value.
            growth: factor of each scale, [channels, blocks].
        """
        grid, columns = self.coded.grid, self.coded.codes.shape[1]
        steps = kernel_order(self.integers(value), self.axis)
        codes = (steps + spread(self.coded.zeros, grid.block, columns)).astype(np.uint8)
        return replace(self.coded, codes=codes, scales=np.asarray(self.coded.scales * growth, np.float32))

    def _spread(self, blocks: Array) -> Floats:
        """Return values of blocks [channels, blocks] in the shape of the weight."""
        rows = spread(blocks, self.coded.grid.block, self.coded.codes.shape[1])
        return original_order(rows, self.start.shape, self.axis)


@dataclass(frozen=True, eq=False)
class Growth(ABC):
    """The growth of a weight's scales, which keeps the integers; the trained value is its logarithm.

    weight  name of the weight's input
    start   trained value at the start, in the shape of the scales
    """

    weight: str
    start: Floats

    @abstractmethod
    def factor(self, value: Floats) -> Floats:
        """Return the growth, which broadcasts to the weight."""

    @abstractmethod
    def gradient(self, products: Floats) -> Floats:
        """Return the gradient of the trained value from the weight times its gradient."""

    def clipped(self, value: Floats) -> Floats:
        """Return a trained value within the range."""
        low, high = (float(np.log(each)) for each in SCALE_RANGE)
        return np.clip(value, low, high)


@dataclass(frozen=True, eq=False)
class ChannelGrowth(Growth):
    """The growth of a scale per channel, or of one for all.

    axis  channel axis of the weight, None for one scale
    rank  rank of the weight
    """

    axis: int | None
    rank: int

    def factor(self, value: Floats) -> Floats:
        """Return the growth, which broadcasts to the weight."""
        return np.asarray(along(np.exp(value), self.axis, self.rank), np.float32)

    def gradient(self, products: Floats) -> Floats:
        """Return the gradient of the trained value from the weight times its gradient."""
        if self.axis is None or self.start.ndim == 0:
            return np.asarray(products.sum(), np.float32).reshape(self.start.shape)
        others = tuple(each for each in range(self.rank) if each != self.axis % self.rank)
        return np.asarray(products.sum(axis=others), np.float32)


@dataclass(frozen=True, eq=False)
class BlockGrowth(Growth):
    """The growth of scales per block, [channels, blocks].

    axis   channel axis of the weight
    block  neighbors along K that share a scale
    shape  of the weight
    """

    axis: int
    block: int
    shape: tuple[int, ...]

    def factor(self, value: Floats) -> Floats:
        """Return the growth in the shape of the weight."""
        columns = self.shape[1 - self.axis]
        return original_order(spread(np.exp(value), self.block, columns), self.shape, self.axis)

    def gradient(self, products: Floats) -> Floats:
        """Return the gradient of the trained value from the weight times its gradient."""
        return np.asarray(as_blocks(kernel_order(products, self.axis), self.block).sum(axis=2), np.float32)
