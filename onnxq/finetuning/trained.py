"""Trained values: weights, the growth of their scales, biases, and the scales of activations."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxq.quantization.parameters import Place
from onnxq.techniques.arithmetic import (
    along,
    asymmetric_params,
    dequantize,
    quantize,
)
from onnxq.techniques.saturation import kernel_order, original_order, round_pair_safe
from onnxq.types import Floats, QuantParams

CELL = 0.25
"""Farthest distance of a latent weight from its integer at the start, in steps.

Closer to the edge of the cell, the first steps undo what GPTQ chose: half of these weights flip by chance.
"""
SCALE_RANGE = 0.5, 2.0
"""Bounds of a trained scale, as multiples of the calibrated one: biases keep their room in int32."""


@dataclass(frozen=True, eq=False)
class Weight:
    """A quantized weight; the trained value is the weight in steps of its scale.

    place      of one of its uses
    params     parameters of the stored integers
    origin     the float weight
    start      trained value at the start, in the shape of the weight
    limit      largest magnitude of an integer
    axis       channel axis
    pair_safe  whether pairs obey the pair rule
    """

    place: Place
    params: QuantParams
    origin: Floats
    start: Floats
    limit: int
    axis: int
    pair_safe: bool

    @property
    def unit(self) -> Floats:
        """Real value of one step, which broadcasts to the weight."""
        return along(self.params.scale, self.params.axis, self.start.ndim)

    def integers(self, value: Floats) -> Floats:
        """Return the integers of a trained value, as floats: rounded, within the limit, and pair-safe."""
        if not self.pair_safe:
            return np.clip(np.rint(value), -self.limit, self.limit)
        rows = kernel_order(value, self.axis)
        stored = round_pair_safe(rows, np.ones(len(rows), np.float32))
        return original_order(stored.astype(np.float32), value.shape, self.axis)

    def fed(self, value: Floats) -> Floats:
        """Return the weight that the graph computes with, without the growth of its scale."""
        return np.asarray(self.integers(value) * self.unit, np.float32)

    def clipped(self, value: Floats) -> Floats:
        """Return a trained value within the range."""
        return np.clip(value, -self.limit - CELL, self.limit + CELL)


@dataclass(frozen=True, eq=False)
class Bias:
    """A float constant that is added to each channel; the trained value is the bias in `unit`s.

    place   of the constant
    start   trained value at the start
    unit    real value of one unit
    params  parameters with which it is stored; None for int32 biases and floats
    """

    place: Place
    start: Floats
    unit: Floats
    stored: bool = False

    def fed(self, value: Floats) -> Floats:
        """Return the bias that the graph computes with."""
        real = np.asarray(value * self.unit, np.float32)
        if not self.stored:
            return real
        params = asymmetric_params(float(real.min()), float(real.max()))
        return np.asarray(dequantize(quantize(real, params), params), np.float32)

    def clipped(self, value: Floats) -> Floats:
        """Return the value: a bias has no range."""
        return value


@dataclass(frozen=True, eq=False)
class Scale:
    """The scale of an activation; the trained value is the logarithm of its growth.

    source   name of the tensor
    initial  calibrated scale
    most     largest scale with which the stored range lies inside that of a clamp
    """

    source: str
    initial: float
    most: float

    @property
    def start(self) -> Floats:
        """Return the trained value at the start."""
        return np.zeros((), np.float32)

    @property
    def unit(self) -> Floats:
        """Derivative of the scale at the start."""
        return np.asarray(self.initial, np.float32)

    def fed(self, value: Floats) -> Floats:
        """Return the scale."""
        if value == 0:
            return np.asarray(self.initial, np.float32)
        return np.asarray(min(self.initial * float(np.exp(value)), self.most), np.float32)

    def clipped(self, value: Floats) -> Floats:
        """Return a trained value within the range."""
        low, high = (float(np.log(each)) for each in SCALE_RANGE)
        return np.asarray(np.clip(value, low, min(high, float(np.log(self.most / self.initial)))), np.float32)


@dataclass(frozen=True, eq=False)
class Growth:
    """The growth of a weight's scale, which keeps the integers; the trained value is its logarithm.

    weight  name of the weight's input
    params  parameters of the weight at the start: the trained value has the shape of their scale
    rank    rank of the weight
    """

    weight: str
    params: QuantParams
    rank: int

    @property
    def start(self) -> Floats:
        """Return the trained value at the start."""
        return np.zeros(np.shape(self.params.scale), np.float32)

    def factor(self, value: Floats) -> Floats:
        """Return the growth, which broadcasts to the weight."""
        return np.asarray(along(np.exp(value), self.params.axis, self.rank), np.float32)

    def scale(self, value: Floats) -> Floats:
        """Return the scale of the weight."""
        return np.asarray(self.params.scale * np.exp(value), np.float32)

    def gradient(self, products: Floats) -> Floats:
        """Return the gradient of the trained value from the weight times its gradient."""
        if self.params.axis is None or self.start.ndim == 0:
            return np.asarray(products.sum(), np.float32).reshape(self.start.shape)
        others = tuple(each for each in range(self.rank) if each != self.params.axis % self.rank)
        return np.asarray(products.sum(axis=others), np.float32)

    def clipped(self, value: Floats) -> Floats:
        """Return a trained value within the range."""
        low, high = (float(np.log(each)) for each in SCALE_RANGE)
        return np.clip(value, low, high)


Trained = Weight | Bias | Scale | Growth
"""Something that is trained, by the change of a value of its own."""
Values = Mapping[str, Floats]
"""Trained values by name: that of their input in the graph, if they have one."""
