"""What a kernel costs: nanoseconds, one thread, from a node's sizes, for each family of CPUs.

Fitted by `benchmarks/kernel_costs.py` to the runtime's own profile of some 400 single kernels a family;
the median error of a row is 2 to 20 %. The tables are part of the program, so that a plan depends on the
model and the options alone, never on the load of the machine that makes it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import onnx_ir as ir

from onnxq.macs import ShapeByName
from onnxq.model.edit import attribute
from onnxq.options import Target


class Work(NamedTuple):
    """Sizes of one node: MACs, elements read and written, of all patches of a convolution, and of the weights; places written.

    Of a grouped convolution runs of a group's channels count in place of its patches' elements: each is copied by itself.
    """

    macs: float
    inputs: float
    outputs: float
    patches: float = 0
    weights: float = 0
    places: float = 0

    def features(self) -> tuple[float, ...]:
        """What the costs of a row are multiplied with: 1 (a call) and the sizes."""
        return (1.0, *self)


Table = dict[str, tuple[float, ...]]
TABLES: dict[Target, Table] = {
    # x86 with AVX2, without VNNI: what a file for all x86 CPUs has to run on
    Target.PORTABLE: {
        "float Add": (1220.0, 0.0, 0.0241, 0.0482, 0.0, 0.0, 0.0),
        "float AveragePool": (1020.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        "float Concat": (0.0, 0.0, 0.0692, 0.0346, 0.0, 0.0, 0.0),
        "float HardSigmoid": (11000.0, 0.0, 0.0302, 0.0302, 0.0, 0.0, 0.0),
        "float LeakyRelu": (12600.0, 0.0, 0.0191, 0.0191, 0.0, 0.0, 0.0),
        "float Mul": (1640.0, 0.0, 0.0221, 0.0443, 0.0, 0.0, 0.0),
        "float Relu": (3410.0, 0.0, 0.023, 0.023, 0.0, 0.0, 0.0),
        "float Resize": (0.0, 0.0, 0.836, 0.209, 0.0, 0.0, 0.0),
        "float Sigmoid": (10100.0, 0.0, 0.0336, 0.0336, 0.0, 0.0, 0.0),
        "float depthwise": (2180.0, 0.0153, 0.0, 0.0, 0.0153, 0.117, 0.616),
        "float grouped": (2450.0, 0.0163, 0.0, 0.0, 1.17, 0.0, 0.0),
        "float plain depthwise": (2610.0, 0.0523, 0.18, 0.0, 0.0523, 14.6, 1.04),
        "float plain grouped": (3480.0, 0.0343, 0.0142, 0.0, 0.236, 1.28, 0.0),
        "float plain pointwise": (2710.0, 0.0151, 0.157, 0.000918, 0.0, 0.114, 0.0),
        "float plain spatial": (2600.0, 0.0147, 0.103, 0.073, 0.36, 0.138, 0.0),
        "float pointwise": (1990.0, 0.0133, 0.018, 0.0421, 0.143, 0.0406, 0.0),
        "float product": (1900.0, 0.0164, 0.0, 0.0, 0.0, 0.0354, 0.564),
        "float reorder": (1820.0, 0.0, 0.111, 0.0, 0.0, 0.0, 0.0),
        "float spatial": (2020.0, 0.0134, 0.0516, 0.0322, 0.182, 0.0, 0.0),
        "integer Add": (6120.0, 0.0, 0.0128, 0.0256, 0.0, 0.0, 0.0),
        "integer AveragePool": (5020.0, 0.0, 1.02, 0.0, 0.0, 0.0, 0.0),
        "integer Concat": (4160.0, 0.0, 0.0621, 0.031, 0.0, 0.0, 0.0),
        "integer HardSigmoid": (8960.0, 0.0, 0.00563, 0.00563, 0.0, 0.0, 0.0),
        "integer LeakyRelu": (5310.0, 0.0, 0.111, 0.111, 0.0, 0.0, 0.0),
        "integer Mul": (4450.0, 0.0, 0.0448, 0.0897, 0.0, 0.0, 0.0),
        "integer Resize": (2810.0, 0.0, 1.38, 0.346, 0.0, 0.0, 0.0),
        "integer Sigmoid": (1060.0, 0.0, 0.148, 0.148, 0.0, 0.0, 0.0),
        "integer depthwise": (3270.0, 0.0202, 0.0, 0.0, 0.0202, 0.0129, 10.3),
        "integer dequantize": (1970.0, 0.0, 0.101, 0.0, 0.0, 0.0, 0.0),
        "integer grouped": (3570.0, 0.00836, 0.0519, 0.131, 3.4, 0.00258, 2.01),
        "integer pointwise": (3000.0, 0.0067, 0.0237, 0.134, 0.0186, 0.0135, 2.09),
        "integer product": (3020.0, 0.00854, 0.0, 0.162, 0.0, 0.0041, 0.472),
        "integer quantize": (1930.0, 0.0, 0.241, 0.0, 0.0, 0.0, 0.0),
        "integer spatial": (3060.0, 0.0068, 0.0228, 0.173, 0.0519, 0.0169, 11.1),
    },
    # x86 with AVX512-VNNI; float activations from `kernel_costs.py --chains`, for the difference to a convolution's time is lost there
    Target.VNNI: {
        "float Add": (1560.0, 0.0, 0.0207, 0.0414, 0.0, 0.0, 0.0),
        "float AveragePool": (1000.0, 0.0, 2.77e-18, 2.79e-20, 0.0, 0.0, 0.0),
        "float Concat": (424.0, 0.0, 0.111, 0.0553, 0.0, 0.0, 0.0),
        "float HardSigmoid": (1260.0, 0.0, 0.0554, 0.0554, 0.0, 0.0, 0.0),
        "float LeakyRelu": (1210.0, 0.0, 0.112, 0.112, 0.0, 0.0, 0.0),
        "float Mul": (1200.0, 0.0, 0.0227, 0.0454, 0.0, 0.0, 0.0),
        "float Relu": (459.0, 0.0, 0.0441, 0.0441, 0.0, 0.0, 0.0),
        "float Resize": (0.0, 0.0, 1.02, 0.254, 0.0, 0.0, 0.0),
        "float Sigmoid": (1170.0, 0.0, 0.137, 0.137, 0.0, 0.0, 0.0),
        "float depthwise": (2230.0, 0.00791, 0.00714, 0.0, 0.00791, 0.0448, 0.736),
        "float grouped": (1950.0, 0.00892, 0.00359, 0.0, 1.07, 0.0302, 0.0),
        "float plain depthwise": (2580.0, 0.0507, 0.192, 0.0, 0.0507, 15.3, 0.0881),
        "float plain grouped": (3070.0, 0.0202, 0.0, 0.0, 0.245, 1.37, 0.0),
        "float plain pointwise": (2590.0, 0.00776, 0.13, 0.0, 0.0, 0.0952, 0.0),
        "float plain spatial": (2720.0, 0.00702, 0.26, 0.062, 0.271, 0.119, 0.0),
        "float pointwise": (1980.0, 0.00523, 0.028, 0.0711, 0.101, 0.0372, 0.58),
        "float product": (1780.0, 0.00824, 0.0, 0.00204, 0.0, 0.0265, 0.513),
        "float reorder": (1840.0, 0.0, 0.0884, 0.0, 0.0, 0.0, 0.0),
        "float spatial": (2340.0, 0.00693, 0.0106, 0.0, 0.146, 0.0, 0.036),
        "integer Add": (1690.0, 0.0, 0.0263, 0.0527, 0.0, 0.0, 0.0),
        "integer AveragePool": (0.0, 0.0, 0.897, 1.33, 0.0, 0.0, 0.0),
        "integer Concat": (0.0, 0.0, 0.0437, 0.0219, 0.0, 0.0, 0.0),
        "integer HardSigmoid": (3380.0, 0.0, 0.0364, 0.0364, 0.0, 0.0, 0.0),
        "integer LeakyRelu": (1360.0, 0.0, 0.13, 0.13, 0.0, 0.0, 0.0),
        "integer Mul": (2510.0, 0.0, 0.0471, 0.0942, 0.0, 0.0, 0.0),
        "integer Resize": (0.0, 0.0, 1.29, 0.324, 0.0, 0.0, 0.0),
        "integer Sigmoid": (902.0, 0.0, 0.133, 0.133, 0.0, 0.0, 0.0),
        "integer depthwise": (3420.0, 0.00884, 0.0, 0.0, 0.00884, 0.0186, 9.06),
        "integer dequantize": (1960.0, 0.0, 0.0974, 0.0, 0.0, 0.0, 0.0),
        "integer grouped": (3360.0, 0.00216, 0.0456, 0.153, 2.78, 0.0104, 1.63),
        "integer pointwise": (2990.0, 0.000896, 0.0285, 0.0521, 0.0195, 0.0325, 1.78),
        "integer product": (2930.0, 0.00213, 0.0175, 0.167, 0.0, 0.00939, 0.0),
        "integer quantize": (1920.0, 0.0, 0.0625, 0.0, 0.0, 0.0, 0.0),
        "integer spatial": (3190.0, 0.00127, 0.011, 0.0755, 0.0397, 0.0117, 10.6),
    },
}
"""Nanoseconds for (a call, a MAC, an element read, written, of patches, of weights, a place of the output)."""

BLOCKS = {Target.PORTABLE: 8, Target.VNNI: 16}
"""Channels in a block of the layout in which each family's float convolutions are fast (NCHWc)."""
ALIGNED = 4
"""The last of several blocks may be filled up from a multiple of so many channels."""
PLAIN = "plain "
"""Before the kind of a convolution that this layout does not take: its float kernel is a slower one."""

PROFILING_NS = 1000.0
"""What the profiler itself adds to a call."""


def conv_kind(groups: int, channels_in: int, channels_out: int, kernel: int) -> str:
    """Convolutions whose kernels differ; `kernel` counts the elements of one."""
    if groups > 1:
        return "depthwise" if groups == channels_in == channels_out else "grouped"
    return "pointwise" if kernel == 1 else "spatial"


def is_blocked(weight: Sequence[int], groups: int, block: int) -> bool:
    """Whether the runtime (1.31, NchwcTransformer) has a float convolution in its blocked layout; weight [out, in / groups, *kernel]."""
    channels_out, inside = weight[:2]
    if len(weight) != 4:
        return False
    if groups == 1:
        return inside < block or inside % ALIGNED == 0
    if inside == 1 and channels_out == groups:
        return channels_out % ALIGNED == 0
    return inside % block == 0 and channels_out // groups % block == 0


def work_of(node: ir.Node, shapes: ShapeByName, block: int) -> tuple[str, Work] | None:
    """The table's kind of a node and its sizes; None where a shape is unknown."""
    inputs = [shapes.get(value.name or "") for value in node.inputs[:1] if value is not None]
    outputs = [shapes.get(value.name or "") for value in node.outputs]
    if not inputs or any(shape is None for shape in (*inputs, *outputs)):
        return None
    read, written = (float(sum(math.prod(shape or ()) for shape in group)) for group in (inputs, outputs))
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return node.op_type, Work(0, read * (len(node.inputs) if node.op_type in ("Add", "Mul") else 1), written)
    weight = shapes.get((node.inputs[1].name if node.inputs[1] is not None else None) or "")
    if weight is None:
        return None
    size = float(math.prod(weight))
    if node.op_type != "Conv":
        deep = weight[1] if node.op_type == "Gemm" and attribute(node, "transB", 0) else weight[0]
        return "product", Work(written * deep, read, written, 0, size, written * deep / size)
    groups, kernel = attribute(node, "group", 1), math.prod(weight[2:])
    assert isinstance(groups, int)
    channels = weight[1] * groups
    kind = conv_kind(groups, channels, weight[0], kernel)
    patches = written / weight[0] * kernel * (groups if kind == "grouped" else channels)
    work = Work(written * weight[1] * kernel, read, written, patches, size, written / weight[0])
    return kind if is_blocked(weight, groups, block) else PLAIN + kind, work


def nanoseconds(table: Table, form: str, kind: str, work: Work) -> float:
    """What a kernel takes in a form, `float` or `integer`; kinds without a row take the same in both, and count as nothing."""
    if form == "integer":
        kind = kind.removeprefix(PLAIN)
    row = table.get(f"{form} {kind}")
    if row is None:
        return 0.0
    return max(0.0, sum(cost * size for cost, size in zip(row, work.features(), strict=True)) - PROFILING_NS)


@dataclass(frozen=True)
class Line:
    """Nanoseconds of a call and of each element."""

    call: float
    element: float


@dataclass(frozen=True)
class Costs:
    """What nodes and conversions take: as a target's table says, as far as nothing was measured.

    block  channels in a block of the float convolutions' layout
    nodes  nanoseconds on integers and in float, by name
    quantize, dequantize  of a conversion
    """

    table: Table
    block: int
    nodes: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    quantize: Line | None = None
    dequantize: Line | None = None

    @staticmethod
    def of(target: Target) -> "Costs | None":
        """What is known of a target's CPUs."""
        return Costs(TABLES[target], BLOCKS[target]) if target in TABLES else None

    def work_of(self, node: ir.Node, shapes: ShapeByName) -> tuple[str, Work] | None:
        """The table's kind of a node and its sizes; None where a shape is unknown."""
        return work_of(node, shapes, self.block)

    def kernel_ns(self, form: str, kind: str, work: Work) -> float:
        """By the table, in a form, `float` or `integer`."""
        return nanoseconds(self.table, form, kind, work)

    def conversion_ns(self, elements: float, *, to_integers: bool) -> float:
        """A Q (or DQ) over so many elements, with the change of layout that goes with it."""
        measured, work = self.quantize if to_integers else self.dequantize, Work(0, elements, 0)
        kind = "quantize" if to_integers else "dequantize"
        itself = self.kernel_ns("integer", kind, work) if measured is None else measured.call + measured.element * elements
        return itself + self.kernel_ns("float", "reorder", work)
