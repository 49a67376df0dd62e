"""Records of the search: a measured candidate, the choice, the outcome of a mode, and its finetuning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxq.calibration.statistics import Statistics
from onnxq.formats.recipe import Recipe
from onnxq.quantization.parameters import Parameters
from onnxq.quantization.stored_weight import StoredWeight
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
    stored      number of other nodes with weights in fewer bits
    weights     weights in few bits by the name of their node; empty where a mode does not describe them
    """

    written: ir.Model
    choice: Choice
    statistics: Statistics
    parameters: Parameters = field(default_factory=Parameters)
    notes: tuple[str, ...] = ()
    stored: int = 0
    weights: Mapping[str, StoredWeight] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One check of a training: SQNR of the outputs on the samples kept aside, mean over their parts, dB."""

    step: int
    sqnr_db: float


@dataclass(frozen=True)
class Finetuning:
    """What finetuning did.

    kept           whether the file holds the trained values
    reason         why, in words
    steps          steps done, over all parts of the schedule
    batch          samples per step
    bits           bits of the weights in each part of the schedule
    samples        samples trained on
    weights, biases, scales  trained tensors of each kind
    checks         checks on samples kept aside, in the last part of the schedule
    before_db, after_db      SQNR on samples that decide nothing, before and after, dB
    frozen         nodes behind which gradients end, with the reason
    interrupted    whether the user ended the training
    layers         layers whose weights were reconstructed before the training
    labels         samples trained on that have a label
    unseen         samples of before_db and after_db
    """

    kept: bool
    reason: str
    steps: int = 0
    batch: int = 0
    bits: tuple[int, ...] = (8,)
    samples: int = 0
    weights: int = 0
    biases: int = 0
    scales: int = 0
    checks: list[Check] = field(default_factory=list)
    before_db: float | None = None
    after_db: float | None = None
    frozen: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    layers: int = 0
    labels: int = 0
    unseen: int = 0
