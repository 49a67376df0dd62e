"""The table of operators that have integer kernels, and their conditions.

Every row describes a fusion of ONNX Runtime's CPU provider; `tests/plan/test_operators.py` checks each row
against the installed runtime. An operator without a row stays float.
"""

from dataclasses import dataclass
from enum import Enum, auto


class Role(Enum):
    """Role of an operator in an integer region."""

    ANCHOR = auto()
    """A matrix product or convolution; integer regions grow around anchors."""
    ARITHMETIC = auto()
    """An operator with an integer kernel and its own output parameters; integer inside regions only."""
    VIEW = auto()
    """An operator that moves or selects stored integers; output and input share their parameters."""
    CLAMP = auto()
    """An operator that becomes part of the output range of the operator before it."""
    RAMP = auto()
    """clip(alpha x + beta, 0, 1): a Clip of the stored integers, with another scale and zero point."""


@dataclass(frozen=True)
class Operator:
    """Quantization facts of one ONNX operator.

    op_type         operator type
    role            role in an integer region
    kernel          name of the integer kernel that the runtime substitutes; a VIEW keeps its own
    activations     indices of the inputs that are activations; None means all of them
    weight          index of the constant weight input
    bias            index of the bias input
    channel_axis    axis of the weight's output channels; a negative axis counts from the end
    needs_output_q  the kernel exists only with a quantized output
    min_opset       first opset that has the kernel, or whose operator accepts 8-bit integers (VIEW)
    """

    op_type: str
    role: Role
    kernel: str = ""
    activations: tuple[int, ...] | None = (0,)
    weight: int | None = None
    bias: int | None = None
    channel_axis: int = 0
    needs_output_q: bool = True
    min_opset: int = 1


def _view(op_type: str, min_opset: int = 1) -> Operator:
    return Operator(op_type, Role.VIEW, op_type, min_opset=min_opset)


_ROWS = (
    Operator("Conv", Role.ANCHOR, "QLinearConv", weight=1, bias=2, channel_axis=0, min_opset=10),
    Operator("Gemm", Role.ANCHOR, "QGemm", weight=1, bias=2, channel_axis=1, needs_output_q=False),
    Operator(
        "MatMul", Role.ANCHOR, "QLinearMatMul", weight=1, channel_axis=1, needs_output_q=False, min_opset=10
    ),
    Operator("Add", Role.ARITHMETIC, "QLinearAdd", activations=None),
    Operator("Mul", Role.ARITHMETIC, "QLinearMul", activations=None),
    Operator("Concat", Role.ARITHMETIC, "QLinearConcat", activations=None),
    Operator("AveragePool", Role.ARITHMETIC, "QLinearAveragePool"),
    Operator("GlobalAveragePool", Role.ARITHMETIC, "QLinearGlobalAveragePool"),
    Operator("LeakyRelu", Role.ARITHMETIC, "QLinearLeakyRelu"),
    Operator("Sigmoid", Role.ARITHMETIC, "QLinearSigmoid"),
    _view("Reshape"),
    _view("Transpose"),
    _view("Flatten"),
    _view("Squeeze"),
    _view("Unsqueeze"),
    _view("Slice"),
    _view("Gather"),
    _view("Split"),
    _view("Expand"),
    _view("Tile"),
    _view("DepthToSpace"),
    _view("MaxPool", min_opset=12),
    _view("Resize", min_opset=10),
    Operator("HardSigmoid", Role.RAMP, "Clip", min_opset=12),
    Operator("Relu", Role.CLAMP),
    Operator("Clip", Role.CLAMP),
)

OPERATORS: dict[str, Operator] = {row.op_type: row for row in _ROWS}
"""The table by operator type."""

KNOWN_RANGES: dict[str, tuple[float, float]] = {
    "Softmax": (0.0, 1.0),
    "Sigmoid": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
}
"""Output ranges that hold for every input; these tensors are not calibrated."""

INTEGER_KERNELS = frozenset(
    {row.kernel for row in _ROWS if row.role in (Role.ANCHOR, Role.ARITHMETIC)}
    | {
        "MatMulIntegerToFloat",
        "MatMulInteger",
        "ConvInteger",
        "DynamicQuantizeMatMul",
        "MatMulNBits",
        "MatMulBnb4",
        "QLinearSoftmax",
        "DynamicQuantizeLSTM",
    }
)
"""Operator types with integer arithmetic in an optimized graph."""

ALREADY_QUANTIZED = (
    frozenset(
        {
            "QuantizeLinear",
            "DequantizeLinear",
            "DynamicQuantizeLinear",
            "MatMulInteger",
            "ConvInteger",
            "QLinearMatMul",
        }
    )
    | INTEGER_KERNELS
)
"""Operator types of models that are at least partly quantized."""
