"""What a kernel costs: nanoseconds, one thread, from a node's sizes, on each of a target's CPUs.

Fitted by `benchmarks/kernel_costs.py` to the runtime's own profile of some 800 single kernels a CPU;
the median error of a row is 2 to 20 %. The tables are part of the program, so that a plan depends on the
model and the options alone, never on the load of the machine that makes it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import onnx_ir as ir

from onnxq.cost.kernel_times import EPYC_AVX2, EPYC_VNNI, XEON_AVX2, XEON_VNNI, Table
from onnxq.graph.edit import attribute, sizes
from onnxq.graph.macs import ShapeByName
from onnxq.options import Target


class Work(NamedTuple):
    """Sizes of one node.

    macs      multiplications
    inputs, outputs  elements read and written
    patches   elements of all patches of a convolution; of a grouped one the runs of a group's channels, each is copied by itself
    weights   elements
    places    of the output, without its channels; of sums and products where one operand has a value for each channel
    runs      of a patch that lie together, each copied as a whole; of a depthwise convolution its elements, each has an address
    idle      multiplications that are for nothing, where the channels written fill no vector
    """

    macs: float
    inputs: float
    outputs: float
    patches: float = 0
    weights: float = 0
    places: float = 0
    runs: float = 0
    idle: float = 0

    def features(self) -> tuple[float, ...]:
        """What the costs of a row are multiplied with: 1 (a call) and the sizes."""
        return (1.0, *self)


ALIGNED = 4
"""The last of several blocks may be filled up from a multiple of so many channels."""
VECTOR = 16
"""Channels that an integer kernel computes together."""
PLAIN = "plain "
"""Before the kind of a convolution that this layout does not take: its float kernel is a slower one."""

ALIKE = 1024
"""An image with a multiple of so many places has its channels on the same lines of a cache: its layout changes three times as slowly."""

PROFILING_NS = 1000.0
"""What the profiler itself adds to a call."""


def conv_kind(weight: Sequence[int], groups: int, block: int) -> str:
    """Convolutions whose kernels differ; weight [out, in / groups, *kernel]. A stem takes an image of few channels."""
    if groups > 1:
        return "depthwise" if weight[1] == 1 and weight[0] == groups else "grouped"
    if math.prod(weight[2:]) == 1:
        return "pointwise"
    return "stem" if len(weight) == 4 and weight[1] < block else "spatial"


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
    if node.op_type in ("Add", "Mul"):
        return node.op_type, Work(0, read * len(node.inputs), written, places=_rows(node, shapes))
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return node.op_type, Work(0, read, written)
    weight = shapes.get((node.inputs[1].name if node.inputs[1] is not None else None) or "")
    if weight is None:
        return None
    size = float(math.prod(weight))
    if node.op_type != "Conv":
        deep = weight[1] if node.op_type == "Gemm" and attribute(node, "transB", 0) else weight[0]
        across = size / deep
        return "product", Work(
            written * deep,
            read,
            written,
            0,
            size,
            written / across,
            0,
            _idle(across) * written / across * deep,
        )
    groups, kernel = attribute(node, "group", 1), math.prod(weight[2:])
    assert isinstance(groups, int)
    channels = weight[1] * groups
    kind = conv_kind(weight, groups, block)
    places, deep = written / weight[0], weight[1] * kernel
    patches = places * kernel * (groups if kind == "grouped" else channels)
    runs = places * (kernel if kind == "depthwise" else math.prod(weight[2:-1]))
    idle = _idle(weight[0]) * places * deep if groups == 1 else 0.0
    work = Work(written * deep, read, written, patches, size, places, runs, idle)
    return kind if is_blocked(weight, groups, block) else PLAIN + kind, work


def transposed(shape: Sequence[int]) -> Work:
    """Sizes of a change of an image's layout; as written counts what falls on the same lines of a cache."""
    elements, places = math.prod(shape), math.prod(shape[2:])
    return Work(0, elements, elements if places % ALIKE == 0 else 0)


def _rows(node: ir.Node, shapes: ShapeByName) -> float:
    """Places of an image whose channels a sum or product treats each on its own; 0 where its operands are of one shape."""
    found = [sizes(value) or shapes.get(value.name or "") or [] for value in node.inputs if value is not None]
    largest = max(found, key=math.prod, default=[])
    alike = len(found) == 2 and found[0] == found[1]
    return 0.0 if alike or len(largest) != 4 else math.prod(largest) / max(largest[1], 1)


def _idle(channels: float) -> float:
    """How many channels there are too few for whole vectors."""
    return -channels % VECTOR


def nanoseconds(table: Table, form: str, kind: str, work: Work) -> float:
    """What a kernel takes in a form, `float` or `integer`; kinds without a row take the same in both, and count as nothing."""
    if form == "integer":
        kind = kind.removeprefix(PLAIN)
    row = table.get(f"{form} {kind}")
    if row is None:
        return 0.0
    return max(0.0, sum(cost * size for cost, size in zip(row, work.features(), strict=False)) - PROFILING_NS)


@dataclass(frozen=True)
class Line:
    """Nanoseconds of a call and of each element."""

    call: float
    element: float


@dataclass(frozen=True)
class Costs:
    """What nodes and conversions take on one CPU: as its table says, as far as nothing was measured.

    block  channels in a block of the float convolutions' layout
    nodes  nanoseconds on integers and in float, by name
    quantize, dequantize  of a conversion
    """

    table: Table
    block: int
    nodes: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    quantize: Line | None = None
    dequantize: Line | None = None

    def work_of(self, node: ir.Node, shapes: ShapeByName) -> tuple[str, Work] | None:
        """The table's kind of a node and its sizes; None where a shape is unknown."""
        return work_of(node, shapes, self.block)

    def kernel_ns(self, form: str, kind: str, work: Work) -> float:
        """By the table, in a form, `float` or `integer`."""
        return nanoseconds(self.table, form, kind, work)

    def conversion_ns(self, shape: Sequence[int], *, to_integers: bool) -> float:
        """A Q (or DQ), of an image with the changes of layout that go with it."""
        elements = math.prod(shape)
        measured, work = self.quantize if to_integers else self.dequantize, Work(0, elements, 0)
        kind = "quantize" if to_integers else "dequantize"
        itself = (
            self.kernel_ns("integer", kind, work)
            if measured is None
            else measured.call + measured.element * elements
        )
        return (
            itself
            + self.transpose_ns(shape)
            + (self.kernel_ns("float", "reorder", work) if len(shape) == 4 else 0.0)
        )

    def transpose_ns(self, shape: Sequence[int]) -> float:
        """Stored integers brought into the layout of the integer convolutions, or back; nothing but an image has to be."""
        return self.kernel_ns("integer", "transpose", transposed(shape)) if len(shape) == 4 else 0.0


CPUS: dict[Target, tuple[Costs, ...]] = {
    Target.PORTABLE: (Costs(EPYC_AVX2, 8), Costs(XEON_AVX2, 8)),
    Target.VNNI: (Costs(EPYC_VNNI, 16), Costs(XEON_VNNI, 16)),
}
"""What a target's files run on; of others nothing is known."""
