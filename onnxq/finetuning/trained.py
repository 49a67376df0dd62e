"""Trained values: weights, the growth of their scales, biases, and the scales of activations."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxq.finetuning.trained_weights import SCALE_RANGE, Growth, Weight
from onnxq.quantization.parameters import Place
from onnxq.techniques.arithmetic import asymmetric_params, dequantize, quantize
from onnxq.types import Floats


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


Trained = Weight | Bias | Scale | Growth
"""Something that is trained, by the change of a value of its own."""
Values = Mapping[str, Floats]
"""Trained values by name: that of their input in the graph, if they have one."""
