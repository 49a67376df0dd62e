"""One protocol for techniques: the statistics that an algorithm needs, and the functions that apply it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

import onnx_ir as ir

from onnxq.calibration.collect import Divided
from onnxq.calibration.moments import LayerInput, Moments
from onnxq.options import Effort
from onnxq.plan.plan import Plan
from onnxq.quantization.weights import RoundWeights, ShiftOutput
from onnxq.techniques.blockwise import Coded, Grid
from onnxq.types import Floats


class Needs(Enum):
    """Statistics of the layers' inputs that an algorithm needs."""

    NOTHING = auto()
    MEANS = auto()
    SECOND_MOMENTS = auto()


@dataclass(frozen=True)
class Transformed:
    """A rewritten model.

    moments  of its layers' inputs
    divided  its tensors that are tensors of the plain model, divided by channel
    """

    model: ir.Model
    moments: Mapping[LayerInput, Moments]
    divided: Mapping[str, Divided] = field(default_factory=dict)


CodeBlocks = Callable[[Floats, Grid, Floats | None], Coded]
"""(rows [channels, K], grid, second moments [K, K] or None) -> codes in blocks of few bits."""
Rewrite = Callable[[ir.Model, Plan, Mapping[LayerInput, Moments], Grid | None], Transformed | None]
"""(normalized model, plan, moments, grid of weight-only quantization) -> a rewritten copy, or None where nothing gains."""


@dataclass(frozen=True)
class Algorithm:
    """A technique. Each path applies the functions that it knows: static, dynamic, LSTM and weight-only quantization.

    name     as in `--without` or `--rounding`, in reports and in the file's metadata
    needs    statistics of the layers' inputs
    efforts  efforts of static and dynamic quantization that try it
    round    choose the integers of an int8 weight
    shift    compute the shift of a layer's mean output that rounding causes, for the bias to take back
    code     code a weight in blocks of few bits
    rewrite  rewrite the float model without changing its outputs
    reaches  whether `rewrite` can help a layer
    """

    name: str
    needs: Needs = Needs.NOTHING
    efforts: frozenset[Effort] = frozenset(Effort)
    round: RoundWeights | None = None
    shift: ShiftOutput | None = None
    code: CodeBlocks | None = None
    rewrite: Rewrite | None = None
    reaches: Callable[[LayerInput], bool] = lambda _: True
