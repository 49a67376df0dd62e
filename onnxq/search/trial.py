"""Records of the search: a measured candidate, the choice among candidates, and the outcome of a mode."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxq.calibration.statistics import Statistics
from onnxq.formats.recipe import Recipe
from onnxq.quantization.parameters import Parameters
from onnxq.search.mixed_precision import Fallback
from onnxq.search.trade_off import Point


@dataclass(frozen=True)
class Trial:
    """One candidate with its measurements on validation samples; None where nothing was measured.

    method      calibration method
    techniques  names of its techniques
    sqnr_db     SQNR of the worst part of the outputs, in front of a final Softmax, dB
    noise       noise / signal, mean over the parts; candidates are compared by it
    changes     expected share of decisions that change, 0..1
    """

    method: str
    techniques: tuple[str, ...]
    sqnr_db: float | None
    noise: float | None = None
    changes: float | None = None


@dataclass(frozen=True, eq=False)
class Choice:
    """The recipe that the search kept, and everything that it tried.

    recipe    kept recipe
    kept      kept candidate with its measurements
    trials    all candidates
    fallback  nodes that went back to float
    points    accuracy against latency and size on the way to the user's target
    warnings  lines for the report
    """

    recipe: Recipe
    kept: Trial
    trials: Sequence[Trial] = ()
    fallback: Fallback | None = None
    points: Sequence[Point] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outcome of a mode: the model to write, and how it came about.

    written     quantized model
    choice      its recipe, the trials and warnings
    statistics  statistics of the calibrated tensors; empty where a mode needs none
    parameters  scales and zero points of the activations
    notes       further lines for the report
    stored      number of other weights stored in fewer bits
    """

    written: ir.Model
    choice: Choice
    statistics: Statistics
    parameters: Parameters = field(default_factory=Parameters)
    notes: tuple[str, ...] = ()
    stored: int = 0
