"""What a user can choose. Imports nothing heavy, so that the command line's help is instant."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Method(StrEnum):
    """How the range of an activation is chosen from its statistics."""

    AUTO = "auto"
    MINMAX = "minmax"
    MOVING_AVERAGE = "moving-average"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


class Format(StrEnum):
    """How integer operators stand in the written file."""

    QDQ = "qdq"
    QOPERATOR = "qoperator"


class Mode(StrEnum):
    """What is quantized, and when activations are."""

    STATIC = "static"
    DYNAMIC = "dynamic"
    WEIGHTS = "weights"
    FP16 = "fp16"
    AUTO = "auto"


class Prefer(StrEnum):
    """What counts among modes whose outputs hold."""

    SPEED = "speed"
    SIZE = "size"
    ACCURACY = "accuracy"


class WeightType(StrEnum):
    """What weights are stored as with `Mode.WEIGHTS`."""

    INT8 = "int8"
    INT4 = "int4"
    NF4 = "nf4"
    FP4 = "fp4"


class Rounding(StrEnum):
    """How weights of few bits are rounded."""

    AUTO = "auto"
    RTN = "rtn"
    HQQ = "hqq"
    GPTQ = "gptq"
    AWQ = "awq"


class Technique(StrEnum):
    """What is tried for the outputs' sake, and can be left out."""

    BIAS_CORRECTION = "bias-correction"
    GPTQ = "gptq"
    SMOOTHING = "smoothing"
    EQUALIZATION = "equalization"
    RUN_TIME_RANGES = "ranges-at-run-time"
    NO_SATURATION = "no-saturation"
    SPLIT = "split"
    FALLBACK = "fallback"


class Target(StrEnum):
    """The CPUs on which the file has to be right."""

    PORTABLE = "portable"
    VNNI = "vnni"
    ARM = "arm"


class Effort(StrEnum):
    """How much measuring onnxq does to make the result accurate."""

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"


@dataclass(frozen=True)
class Limits:
    """What the user asks for; None where it is not a condition.

    max_drop       the first metric may fall by so much: points (hundredths) of shares, else its own unit
    min_sqnr       of the outputs, dB
    min_agreement  share of decisions that are the float model's, 0..1
    min_speedup    float latency / the file's, at least
    max_size       the file's bytes / float's, at most
    significant    a drop counts only where the paired test says that it is more than chance
    """

    max_drop: float | None = None
    min_sqnr: float | None = None
    min_agreement: float | None = None
    min_speedup: float | None = None
    max_size: float | None = None
    significant: bool = False

    @property
    def asked(self) -> bool:
        """Whether accuracy is a condition."""
        return self.max_drop is not None or self.min_sqnr is not None or self.min_agreement is not None


@dataclass(frozen=True)
class QuantizeOptions:
    """All options of `onnxq quantize`; `config.py` and the command line fill the same fields.

    model        float model
    calib        data folder; may be None with `stats`
    output       file to write; None for `<model>.int8.onnx` (or .int4, .nf4, .fp16) beside the input
    mode         what is quantized, and when activations are
    prefer       with `Mode.AUTO`: what counts
    weight_type, block, symmetric, rounding  how weights are stored with `Mode.WEIGHTS`: values that share a scale
                 ("channel" and "tensor" too), whether they have no zero point, and how they are rounded
    standard     with `Mode.STATIC` and `Mode.WEIGHTS`: operators of ONNX itself (there opset 21), in place of this runtime's
    integer_compute  let the kernels of such weights round activations to 8 bits, which is faster
    effort       how much is measured to make the result accurate
    method       how activation ranges are chosen
    percentile   share of values kept by the percentile method, percent
    samples      at most so many samples of the folder, evenly spaced
    target       CPUs on which the file must be right
    per_channel  one weight scale an output channel, else one a tensor
    format       QDQ or QOperator
    preprocess   preset or TOML file that says how an image becomes an input
    states       pairs "input=output" of a stateful model, whose output is the next sample's input; ("none",) where it has none; () finds
                 them by name and shape, or in the data
    stats        statistics of `onnxq calibrate` in place of a calibration pass; several are merged
    include, exclude, op_types  which nodes may be quantized: names or globs, operator types
    give_back    leave float what is expected to be faster so on the target's CPUs
    measure      decide that by timing nodes on this machine, in place of what is known of the target's CPUs
    dynamic_lstm  int8 weights for LSTMs, whose inputs the runtime quantizes step by step: all, none, or (None) those that gain by it
    allow_nonfinite  leave out NaN and infinite values where calibration meets them
    without      techniques that are not to be used
    limits       gates: of the outputs on held-out samples, of latency and of size
    keep_failed  write a file that fails a gate under its name, in place of <name>.rejected.onnx
    details      measure each layer's error and time, and keep each tensor's histogram, for the report
    force        overwrite the output
    """

    model: Path
    calib: Path | None = None
    output: Path | None = None
    mode: Mode = Mode.STATIC
    prefer: Prefer = Prefer.SPEED
    weight_type: WeightType = WeightType.INT4
    block: str = "32"
    symmetric: bool = True
    rounding: Rounding = Rounding.AUTO
    standard: bool = False
    integer_compute: bool = True
    effort: Effort = Effort.BALANCED
    method: Method = Method.AUTO
    percentile: float = 99.99
    samples: int = 200
    target: Target = Target.PORTABLE
    per_channel: bool = True
    format: Format = Format.QDQ
    preprocess: str | None = None
    states: tuple[str, ...] = ()
    stats: tuple[Path, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    op_types: tuple[str, ...] = ()
    give_back: bool = True
    measure: bool = False
    dynamic_lstm: bool | None = None
    without: tuple[Technique, ...] = ()
    allow_nonfinite: bool = False
    limits: Limits = field(default_factory=Limits)
    keep_failed: bool = False
    details: bool = False
    force: bool = False

    @property
    def destination(self) -> Path:
        """Where the result is written."""
        kind = {Mode.WEIGHTS: str(self.weight_type), Mode.FP16: "fp16"}.get(self.mode, "int8")
        return self.output or self.model.with_name(f"{self.model.stem}.{kind}.onnx")
