"""Cost model of the kernels: nanoseconds on one thread from a node's sizes, for each CPU of a target.

`onnxq profile` fits a CPU's table to the runtime's profile of several hundred single kernels; the median
error of a row is 2 to 20 %. The tables of the families ship with the package. A plan therefore depends on
the model and the options alone, never on the load of the machine that makes it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import onnx_ir as ir

from onnxq.cost.target_file import Table
from onnxq.graph.edit import attribute, sizes
from onnxq.graph.macs import ShapeByName


class Work(NamedTuple):
    """Sizes of one node.

    macs      multiply-accumulate operations
    inputs    elements read
    outputs   elements written
    patches   elements of all patches of a convolution; for a grouped one, the copied runs of all groups
    weights   elements of the weight
    places    output positions without the channels; for Add and Mul, 0 unless an operand is per channel
    runs      contiguous runs of patches, each copied as a whole; for a depthwise convolution, its elements
    idle      wasted MACs where the output channels do not fill a vector
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
        """Return the factors of a row's costs: 1 for the call, then the sizes."""
        return (1.0, *self)


ALIGNED = 4
"""Channel counts divisible by this may have their last block padded."""
VECTOR = 16
"""Output channels that an integer kernel computes together."""
PLAIN = "plain "
"""Prefix of the kind of a convolution outside the blocked layout: its float kernel is slower."""

ALIKE = 1024
"""Channels share cache lines in images with a multiple of this many pixels.

Their layout changes take three times as long.
"""

PROFILING_NS = 1000.0
"""Nanoseconds that the profiler adds to a call, where they were not measured."""


def conv_kind(weight: Sequence[int], groups: int, block: int) -> str:
    """Return the kind of a convolution with weight `[out, in / groups, *kernel]`.

    A stem has fewer inputs than a block of the blocked layout has channels.
    """
    if groups > 1:
        return "depthwise" if weight[1] == 1 and weight[0] == groups else "grouped"
    if math.prod(weight[2:]) == 1:
        return "pointwise"
    return "stem" if len(weight) == 4 and weight[1] < block else "spatial"


def is_blocked(weight: Sequence[int], groups: int, block: int) -> bool:
    """Whether the runtime runs a float convolution in its blocked layout (1.31, NchwcTransformer).

    Args:
        weight: shape `[out, in / groups, *kernel]`.
        groups: of the convolution.
        block: channels per block of the layout; 0 if the CPU has none.
    """
    channels_out, inside = weight[:2]
    if len(weight) != 4 or not block:
        return False
    if groups == 1:
        return inside < block or inside % ALIGNED == 0
    if inside == 1 and channels_out == groups:
        return channels_out % ALIGNED == 0
    return inside % block == 0 and channels_out // groups % block == 0


def work_of(node: ir.Node, shapes: ShapeByName, block: int) -> tuple[str, Work] | None:
    """Return the table's kind of a node and its sizes; None if a shape is unknown."""
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
    if node.op_type != "Conv":
        deep = weight[1] if node.op_type == "Gemm" and attribute(node, "transB", 0) else weight[0]
        assert isinstance(deep, int)
        return "product", product_work(math.prod(weight), deep, read, written)
    groups = attribute(node, "group", 1)
    assert isinstance(groups, int)
    return conv_work(weight, groups, read, written, block)


def product_work(size: float, deep: int, read: float, written: float) -> Work:
    """Return the sizes of a matrix product.

    Args:
        size: elements of the weight.
        deep: length of the sums.
        read: elements of the input.
        written: elements of the output.
    """
    across = size / deep
    rows = written / across
    return Work(written * deep, read, written, 0, size, rows, 0, _idle(across) * rows * deep)


def conv_work(
    weight: Sequence[int], groups: int, read: float, written: float, block: int
) -> tuple[str, Work]:
    """Return the table's kind of a convolution and its sizes.

    Args:
        weight: shape `[out, in / groups, *kernel]`.
        groups: of the convolution.
        read: elements of the input.
        written: elements of the output.
        block: channels per block of the layout; 0 if the CPU has none.
    """
    size, kernel, channels = float(math.prod(weight)), math.prod(weight[2:]), weight[1] * groups
    kind = conv_kind(weight, groups, block)
    places, deep = written / weight[0], weight[1] * kernel
    patches = places * kernel * (groups if kind == "grouped" else channels)
    runs = places * (kernel if kind == "depthwise" else math.prod(weight[2:-1]))
    idle = _idle(weight[0]) * places * deep if groups == 1 else 0.0
    work = Work(written * deep, read, written, patches, size, places, runs, idle)
    return kind if is_blocked(weight, groups, block) else PLAIN + kind, work


def transposed(shape: Sequence[int]) -> Work:
    """Return the sizes of a layout change; `outputs` counts images whose channels share cache lines."""
    elements, places = math.prod(shape), math.prod(shape[2:])
    return Work(0, elements, elements if places % ALIKE == 0 else 0)


def _rows(node: ir.Node, shapes: ShapeByName) -> float:
    """Return the pixels of an image that Add or Mul treats per channel; 0 if the operands have one shape."""
    found = [sizes(value) or shapes.get(value.name or "") or [] for value in node.inputs if value is not None]
    largest = max(found, key=math.prod, default=[])
    alike = len(found) == 2 and found[0] == found[1]
    return 0.0 if alike or len(largest) != 4 else math.prod(largest) / max(largest[1], 1)


def _idle(channels: float) -> float:
    """Return the number of channels missing to whole vectors."""
    return -channels % VECTOR


def nanoseconds(table: Table, form: str, kind: str, work: Work, *, profiling: float = PROFILING_NS) -> float:
    """Return the time of a kernel in a form, `float` or `integer`, by its row; 0 for kinds without a row.

    Those take the same time in both forms. `profiling` is the part of the rows that the profiler adds, ns.
    """
    if form == "integer":
        kind = kind.removeprefix(PLAIN)
    row = table.get(f"{form} {kind}")
    if row is None:
        return 0.0
    return max(0.0, sum(cost * size for cost, size in zip(row, work.features(), strict=False)) - profiling)


@dataclass(frozen=True)
class Line:
    """Nanoseconds of a conversion: `call` once, `element` for each element."""

    call: float
    element: float


@dataclass(frozen=True)
class Costs:
    """Times of nodes and conversions on one CPU, from its table unless measured.

    table       the CPU's kernel times
    block       channels in a block of the float convolutions' layout; 0 without such a layout
    nodes       measured nanoseconds on integers and in float, by node name
    quantize    measured time of QuantizeLinear
    dequantize  measured time of DequantizeLinear
    profiling   nanoseconds per call in the table that the profiler added
    """

    table: Table
    block: int
    nodes: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    quantize: Line | None = None
    dequantize: Line | None = None
    profiling: float = PROFILING_NS

    def work_of(self, node: ir.Node, shapes: ShapeByName) -> tuple[str, Work] | None:
        """Return the table's kind of a node and its sizes; None if a shape is unknown."""
        return work_of(node, shapes, self.block)

    def kernel_ns(self, form: str, kind: str, work: Work) -> float:
        """Return the table's time of a kernel in a form, `float` or `integer`."""
        return nanoseconds(self.table, form, kind, work, profiling=self.profiling)

    def conversion_ns(self, shape: Sequence[int], *, to_integers: bool) -> float:
        """Return the time of a QuantizeLinear or DequantizeLinear, changes of an image's layout included."""
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
        """Return the time to change integers into the integer convolutions' layout or back; 0 if no image."""
        return self.kernel_ns("integer", "transpose", transposed(shape)) if len(shape) == 4 else 0.0
