"""The protocol of techniques: the statistics that an algorithm needs, and the functions that apply it."""

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

    model    rewritten model
    moments  moments of the layers' inputs
    divided  tensors that are tensors of the plain model, divided by channel
    """

    model: ir.Model
    moments: Mapping[LayerInput, Moments]
    divided: Mapping[str, Divided] = field(default_factory=dict)


CodeBlocks = Callable[[Floats, Grid, Floats | None], Coded]
"""Signature: rows [channels, K], grid, second moments [K, K] or None -> codes in blocks."""
Rewrite = Callable[[ir.Model, Plan, Mapping[LayerInput, Moments], Grid | None], Transformed | None]
"""Signature: normalized model, plan, moments, grid of weight-only quantization -> rewritten copy, or None.

None means that no layer gains.
"""


@dataclass(frozen=True)
class Algorithm:
    """A technique; static, dynamic, LSTM and weight-only quantization each apply the functions they need.

    name     name in `--without` or `--rounding`, in reports and in the file's metadata
    needs    statistics of the layers' inputs
    efforts  efforts of static and dynamic quantization that try it
    round    rounds an int8 weight
    shift    computes the shift of a layer's mean output that rounding causes, for a correction of the bias
    code     codes a weight in blocks of few bits
    rewrite  rewrites the float model without changing its outputs
    reaches  tells whether `rewrite` can help a layer
    """

    name: str
    needs: Needs = Needs.NOTHING
    efforts: frozenset[Effort] = frozenset(Effort)
    round: RoundWeights | None = None
    shift: ShiftOutput | None = None
    code: CodeBlocks | None = None
    rewrite: Rewrite | None = None
    reaches: Callable[[LayerInput], bool] = lambda _: True
