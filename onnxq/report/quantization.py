"""The report of `onnxq quantize`: plain data that the command prints and the Python API returns."""

from dataclasses import dataclass, field, replace

from onnxq.evaluation.gates import Gate, at_least, at_most
from onnxq.evaluation.layer_errors import Histogram, Layer
from onnxq.evaluation.verification import Kernels, Outputs
from onnxq.options import Limits
from onnxq.plan.float_nodes import FloatNodes
from onnxq.search.mixed_precision import Fallback
from onnxq.search.trade_off import Point
from onnxq.search.trial import Trial

SCHEMA = 3
"""Version of the JSON; it changes when a key changes its meaning or goes away."""


@dataclass(frozen=True)
class Latency:
    """Median milliseconds of one inference, one thread, the models run in turns on this machine."""

    float_ms: float
    int8_ms: float

    @property
    def ratio(self) -> float:
        """int8 / float; below 1 is faster."""
        return self.int8_ms / self.float_ms


@dataclass(frozen=True)
class Drop:
    """By how much the file's metric is worse than float's: points (hundredths) of shares, else its own unit."""

    metric: str
    points: float


@dataclass(frozen=True)
class QuantizeReport:
    """What `onnxq quantize` did.

    mode     static, dynamic, weights or fp16
    bytes_*  of the files with their external data
    trials   what was compared on held-out samples
    fallback  what was left float for the outputs' sake
    planned  number of Conv, MatMul and Gemm that were to run on integers
    ranges   seen minimum and maximum of each calibrated tensor
    seconds  wall time of each stage
    notes    what else a mode did
    gates    conditions that were asked for
    frontier  the modes that were tried, with `--mode auto`; else what was tried to reach a target
    drop     on the labelled samples of --max-drop
    layers, histograms  where details were asked for
    """

    version: str
    mode: str
    model: str
    output: str
    method: str
    percentile: float | None
    techniques: list[str]
    trials: list[Trial]
    fallback: Fallback | None
    samples: int
    bytes_before: int
    bytes_after: int
    planned: int
    kernels: Kernels
    outputs: Outputs | None
    latency: Latency | None
    floats: list[FloatNodes]
    ranges: dict[str, tuple[float, float]]
    warnings: list[str]
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    frontier: list[Point] = field(default_factory=list)
    drop: Drop | None = None
    layers: list[Layer] = field(default_factory=list)
    histograms: list[Histogram] = field(default_factory=list)
    schema: int = field(default=SCHEMA)

    def gated(self, limits: Limits) -> "QuantizeReport":
        """The report with the gates that were asked for."""
        sqnr = self.outputs.bound_db if self.outputs is not None else None
        speedup = 1 / self.latency.ratio if self.latency is not None else None
        lost = (
            (self.drop.points, f"{self.drop.metric} is {{:.2f}} below float")
            if self.drop is not None
            else (None, "")
        )
        gates = [
            *at_most("--max-drop", self.output, limits.max_drop, *lost),
            *at_least("--min-sqnr", self.output, limits.min_sqnr, sqnr, "SQNR is {:.2f} dB"),
            *at_least("--min-speedup", self.output, limits.min_speedup, speedup, "speed-up is {:.2f}x"),
            *at_most(
                "--max-size",
                self.output,
                limits.max_size,
                self.bytes_after / self.bytes_before,
                "size is {:.3f} of float",
            ),
        ]
        return replace(self, gates=gates)
