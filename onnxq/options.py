"""Options of quantization and their values; imports nothing heavy, so that help appears at once.

The enums name the built-in values, which help lists. The options `mode`, `method`, `format`, `rounding` and
`without` take any other name in the registry of their kind, too (see CONTRIBUTING.md).
"""

import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypedDict, TypeVar

Options = TypeVar("Options")

PYTHON_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""`module:function`, by which an option names code to run."""


def output_file(text: str, name: str) -> Path:
    """Return the file that the text of an output option names; `name` is for a text that names a folder.

    A text that ends in a slash, or in the folders `.` or `..`, names a folder.
    """
    last = re.split(r"[\\/]" if os.sep == "\\" else "/", text)[-1]
    return Path(text) / name if last in ("", ".", "..") else Path(text)


class Method(StrEnum):
    """Methods that choose the clipping range of an activation from its statistics."""

    AUTO = "auto"
    MINMAX = "minmax"
    MOVING_AVERAGE = "moving-average"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


class Format(StrEnum):
    """Representations of quantized operators: Q/DQ nodes around float operators, or integer operators."""

    QDQ = "qdq"
    QOPERATOR = "qoperator"


class Mode(StrEnum):
    """Kinds of quantization.

    static   int8 weights and activations, calibrated ranges
    dynamic  int8 weights and activations, ranges computed at run time
    weights  weights only, as `WeightType`
    fp16     weights in half precision
    auto     all of these are tried, and the best is kept
    """

    STATIC = "static"
    DYNAMIC = "dynamic"
    WEIGHTS = "weights"
    FP16 = "fp16"
    AUTO = "auto"


class Prefer(StrEnum):
    """Criterion of `Mode.AUTO` among results that are accurate enough."""

    SPEED = "speed"
    SIZE = "size"
    ACCURACY = "accuracy"


class ActivationType(StrEnum):
    """Storage types of activations with `Mode.STATIC`.

    uint8   with a zero point: the type of ONNX Runtime's integer kernels
    uint16  with a zero point, for other engines
    int16   with zero point 0, for other engines
    """

    UINT8 = "uint8"
    UINT16 = "uint16"
    INT16 = "int16"


class WeightType(StrEnum):
    """Storage types of weights with `Mode.WEIGHTS`; bfloat16 is not integer."""

    INT8 = "int8"
    INT4 = "int4"
    NF4 = "nf4"
    FP4 = "fp4"
    BFLOAT16 = "bfloat16"


class Rounding(StrEnum):
    """Rounding methods of weights with `Mode.WEIGHTS`; auto is GPTQ with samples and HQQ without."""

    AUTO = "auto"
    RTN = "rtn"
    HQQ = "hqq"
    GPTQ = "gptq"
    AWQ = "awq"


class Technique(StrEnum):
    """Techniques that make the outputs more accurate; `QuantizeOptions.without` disables them."""

    BIAS_CORRECTION = "bias-correction"
    GPTQ = "gptq"
    SMOOTHING = "smoothing"
    EQUALIZATION = "equalization"
    RUN_TIME_RANGES = "ranges-at-run-time"
    NO_SATURATION = "no-saturation"
    SPLIT = "split"
    FALLBACK = "fallback"
    FINETUNING = "finetuning"


class Target(StrEnum):
    """CPU families that the file is made for; portable is right on x86 CPUs without VNNI too."""

    PORTABLE = "portable"
    VNNI = "vnni"
    ARM = "arm"


Targets = str | Path | tuple[str | Path, ...]
"""A `Target` by name, a file of `onnxq profile`, or several of them."""


class Effort(StrEnum):
    """Amount of search for an accurate result.

    fast      correct biases, try SmoothQuant and ranges at run time
    balanced  try all techniques, and fall back to float where the outputs are not accurate enough
    best      also try weights rounded to nearest, and finetune; collect moments over more samples and rows
    """

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"


@dataclass(frozen=True)
class Limits:
    """Gates that a result must pass; None for no gate.

    max_drop       largest drop of the first metric: percentage points for accuracy-like metrics, otherwise
                   the metric's unit
    min_sqnr       least SQNR of the outputs against float, dB
    min_agreement  least share of decisions that agree with the float model's, 0..1
    min_speedup    least float latency / latency of the file
    max_size       largest size of the file / size of the float model
    significant    count a drop only where the paired test finds it significant
    """

    max_drop: float | None = None
    min_sqnr: float | None = None
    min_agreement: float | None = None
    min_speedup: float | None = None
    max_size: float | None = None
    significant: bool = False

    @property
    def asked(self) -> bool:
        """Whether a gate limits the loss of accuracy."""
        return self.max_drop is not None or self.min_sqnr is not None or self.min_agreement is not None


@dataclass(frozen=True)
class FinetuneOptions:
    """Options of `onnxq finetune` besides those of quantization.

    labels         labels of the calibration samples: a CSV with the header file,label, or "folders"; None for
                   none
    label_share    weight of the labels against the float model's outputs, 0..1
    bits           bits of the weights in each part of the training; the last are those of the file
    steps          training steps; None for a number by the model's size
    batch          samples per step
    micro_batches  parts of a batch that are computed side by side, each on a core or a worker of a cluster
    rate           multiple of the learning rates
    gradient_bits  bits of the gradients: 32, or 8 or 4 with stochastic rounding and error feedback
    augment        change images at random: flip and shift them
    seed           of the order of the samples and of random numbers
    checkpoint     file that keeps the state of the training, from which it is resumed
    memory         most bytes of examples kept in memory
    """

    labels: str | None = None
    label_share: float = 0.5
    bits: tuple[int, ...] = (8,)
    steps: int | None = None
    batch: int = 16
    micro_batches: int = 4
    rate: float = 1.0
    gradient_bits: int = 32
    augment: bool = False
    seed: int = 0
    checkpoint: Path | None = None
    memory: int = 512 << 20


def renamed_fields(**names: str) -> Callable[[type[Options]], type[Options]]:
    """Let a dataclass take old names of its fields as keyword arguments.

    Args:
        **names: the present name for each old one.
    """

    def decorate(kind: type[Options]) -> type[Options]:
        construct = kind.__init__

        @functools.wraps(construct)
        def __init__(self: Any, *values: Any, **fields: Any) -> None:  # noqa: N807
            # an old name overrides the present one, which `dataclasses.replace` always passes
            renamed = {names[name]: fields.pop(name) for name in names if name in fields}
            construct(self, *values, **fields | renamed)

        kind.__init__ = __init__  # type: ignore[method-assign]
        return kind

    return decorate


@renamed_fields(give_back="skip_slow_nodes")
@dataclass(frozen=True)
class QuantizeOptions:
    """Options of `onnxq quantize`; the command line and `onnxq.toml` set the same fields.

    model        float model
    calib        calibration samples: folder or module:function; may be None with `stats`
    output       file to write; None for `<model>.int8.onnx` (or .int4, .fp16, ...) beside the model
    mode         kind of quantization
    prefer       criterion of `Mode.AUTO`
    weight_type  with `Mode.WEIGHTS`: storage type of weights
    block        with `Mode.WEIGHTS`: weights per scale: "16", "32", "64", "128", "256", "channel", "tensor"
    symmetric    with `Mode.WEIGHTS`: blocks have no zero point
    rounding     with `Mode.WEIGHTS`: rounding method
    standard     write operators of ONNX only, none of ONNX Runtime's own; `Mode.WEIGHTS` then writes opset 21
    integer_compute  with `Mode.WEIGHTS`: kernels may round activations to 8 bits, which is faster
    effort       amount of search for an accurate result
    method       how the clipping ranges of activations are chosen
    percentile   share of values that the percentile method keeps, percent
    samples      largest number of samples, evenly spaced
    target       CPUs that the file is made for: a `Target`, a file of `onnxq profile`, or several of them
    per_channel  one weight scale per output channel, else one per tensor
    activation_type  with `Mode.STATIC`: storage type of activations; those of 16 bits are for other engines
    weight_bits  bits of a weight with `Mode.STATIC`, 2 to 8; fewer than 8 are stored as int8, too
    format       representation of quantized operators
    preprocess   preset or TOML file that describes how a file becomes an input
    states       pairs "input=output" of a stateful model: the output is the next sample's input; () detects
                 them by name and shape, or in the data; ("none",) for a model without
    stats        statistics of `onnxq calibrate` in place of a calibration pass; several are merged
    include      names or globs of the nodes to quantize; () for all
    exclude      names or globs of nodes to keep in float
    op_types     operator types to quantize; () for all
    skip_slow_nodes  keep nodes in float where float is expected to be faster on the target
    measure      decide that by timing nodes on this machine, not by the target's cost model
    keep_int8    write int8 also where that is slower or larger than float on this machine, so that no
                 measured time decides; otherwise the float model, with half-precision weights
    dynamic_lstm  int8 LSTM weights, with inputs quantized at run time: for all LSTMs, none, or (None) those
                 that become faster
    without      techniques to disable
    allow_nonfinite  leave NaN and infinite values out of the statistics instead of raising
    limits       gates of accuracy on validation samples, of latency and of size
    keep_failed  write a file that fails a gate to `output`, not to <name>.rejected.onnx
    details      measure the error and time of each layer and keep each tensor's histogram, for the report
    force        overwrite the output
    cluster      where models run over samples and weights are rounded: a Dask scheduler's address, "local:N",
                 "dask", a scheduler file, or a `distributed.Client`; None for this process
    """

    model: Path
    calib: Path | None = None
    output: Path | None = None
    mode: str = Mode.STATIC
    prefer: Prefer = Prefer.SPEED
    weight_type: WeightType = WeightType.INT4
    block: str = "32"
    symmetric: bool = True
    rounding: str = Rounding.AUTO
    standard: bool = False
    integer_compute: bool = True
    effort: Effort = Effort.BALANCED
    method: str = Method.AUTO
    percentile: float = 99.99
    samples: int = 200
    target: Targets = Target.PORTABLE
    per_channel: bool = True
    activation_type: ActivationType = ActivationType.UINT8
    weight_bits: int = 8
    format: str = Format.QDQ
    preprocess: str | None = None
    states: tuple[str, ...] = ()
    stats: tuple[Path, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    op_types: tuple[str, ...] = ()
    skip_slow_nodes: bool = True
    measure: bool = False
    keep_int8: bool = False
    dynamic_lstm: bool | None = None
    without: tuple[str, ...] = ()
    allow_nonfinite: bool = False
    limits: Limits = field(default_factory=Limits)
    keep_failed: bool = False
    details: bool = False
    force: bool = False
    cluster: Any = None

    @property
    def destination(self) -> Path:
        """Path of the file to write."""
        return self.output or self.model.with_name(self.default_name)

    @property
    def default_name(self) -> str:
        """Name of the file to write where no other is given."""
        kinds: dict[str, str] = {Mode.WEIGHTS: str(self.weight_type), Mode.FP16: "fp16"}
        return f"{self.model.stem}.{kinds.get(self.mode, 'int8')}.onnx"


class QuantizeKeywords(TypedDict, total=False):
    """Keyword arguments of `onnxq.quantize`: the fields of `QuantizeOptions` but three."""

    mode: str
    prefer: Prefer
    weight_type: WeightType
    activation_type: ActivationType
    weight_bits: int
    block: str
    symmetric: bool
    rounding: str
    standard: bool
    integer_compute: bool
    effort: Effort
    method: str
    percentile: float
    samples: int
    target: Targets
    per_channel: bool
    format: str
    preprocess: str | None
    states: tuple[str, ...]
    stats: tuple[Path, ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    op_types: tuple[str, ...]
    skip_slow_nodes: bool
    measure: bool
    keep_int8: bool
    dynamic_lstm: bool | None
    without: tuple[str, ...]
    allow_nonfinite: bool
    limits: Limits
    keep_failed: bool
    details: bool
    force: bool
    cluster: Any
