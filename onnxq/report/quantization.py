"""Report of `onnxq quantize`: plain data for the command line and the Python API."""

from dataclasses import dataclass, field, replace

from onnxq.evaluation.gates import Gate, at_least, at_most
from onnxq.evaluation.layer_errors import Histogram, Layer
from onnxq.evaluation.notebook import html_table
from onnxq.evaluation.origin import Origin
from onnxq.evaluation.verification import Kernels, Outputs
from onnxq.options import Limits
from onnxq.plan.float_nodes import FloatNodes
from onnxq.search.mixed_precision import Fallback
from onnxq.search.trade_off import Point
from onnxq.search.trial import Finetuning, Trial

SCHEMA = 3
"""Version of the JSON; it changes when a key changes its meaning or is removed."""


@dataclass(frozen=True)
class Latency:
    """Median latency of one inference on this machine, ms; one thread, models in turns."""

    float_ms: float
    int8_ms: float

    @property
    def ratio(self) -> float:
        """Return int8 latency / float latency; below 1 is faster."""
        return self.int8_ms / self.float_ms


@dataclass(frozen=True)
class Drop:
    """Difference of the metric to the float model, positive if worse.

    metric  name of the score
    points  percentage points for accuracy-like metrics, otherwise the metric's unit
    """

    metric: str
    points: float


@dataclass(frozen=True)
class QuantizeReport:
    """Result of `onnxq quantize`.

    version     version of onnxq
    mode        static, dynamic, weights or fp16
    model, output  paths of the float model and of the quantized file
    method      calibration method; percentile is set for the method of that name
    techniques  weight and activation techniques in the file
    trials      candidates compared on validation samples
    fallback    nodes left in float for accuracy (mixed precision)
    samples     number of calibration samples
    bytes_before, bytes_after  sizes of the files with external data
    planned     number of Conv, MatMul and Gemm nodes planned for integer kernels
    kernels     kernels in the optimized graph
    outputs     output error against float
    latency     latency of both files
    floats      nodes left in float, by reason
    ranges      minimum and maximum of each calibrated tensor
    warnings    problems that the user should know
    seconds     wall time of each stage, s
    notes       further changes of a mode
    gates       required limits
    frontier    files tried by `--mode auto` or to reach a limit, for the trade-off of accuracy, latency and
                size
    drop        loss of the metric on the labelled samples of --max-drop
    finetuning  training of the quantized model; None where none was asked for
    layers, histograms  details, if requested
    origin      command, machine, versions, digests
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
    finetuning: Finetuning | None = None
    layers: list[Layer] = field(default_factory=list)
    histograms: list[Histogram] = field(default_factory=list)
    origin: Origin | None = None
    schema: int = field(default=SCHEMA)

    def __repr__(self) -> str:
        found = self.outputs.sqnr_db if self.outputs is not None else None
        sqnr = "" if found is None else f", {found:.1f} dB"
        times = "" if self.latency is None else f", {self.latency.ratio:.2f}x latency"
        size = f"{self.bytes_after / self.bytes_before:.2f}x size"
        return f"<QuantizeReport {self.output!r}: {self.mode}, {size}{times}{sqnr}>"

    def _repr_html_(self) -> str:
        """Return the summary for a notebook."""
        from onnxq.report.quantize_text import quantize_rows

        rows = [["warning", line] for line in self.warnings]
        return html_table([*quantize_rows(self), *rows])

    def gated(self, limits: Limits) -> "QuantizeReport":
        """Return the report with gates for the limits that are set."""
        sqnr = self.outputs.bound_db if self.outputs is not None else None
        speedup = 1 / self.latency.ratio if self.latency is not None else None
        lost = (
            (self.drop.points, f"{self.drop.metric} is {{:.2f}} worse than float")
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
