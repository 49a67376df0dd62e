"""Convolutions and matrix products of many sizes, drawn at random with fixed seeds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from onnxq.cost.model import PLAIN, Work, conv_work, product_work
from onnxq.profiling.cases import AROUND, Case
from onnxq.profiling.fit import Row
from onnxq.profiling.measurement import Probe, Times
from onnxq.profiling.models import SmallModel, weight_of

MOST_TRIES = 100_000
"""Draws after which no more kernels of a kind are sought."""
KERNELS = {"float": ("Conv", "FusedConv", "MatMul"), "integer": ("QLinear", "MatMulInteger")}
"""Beginnings of the names of the kernels of operators with weights, by form."""


@dataclass(frozen=True)
class _Convolution:
    """Sizes of a convolution: shape of the input and the weight, groups, stride; padded to keep its size."""

    shape: tuple[int, ...]
    weight: tuple[int, ...]
    groups: int = 1
    stride: int = 1

    def out(self) -> tuple[int, ...]:
        """Return the shape of the output."""
        places = ((size - 1) // self.stride + 1 for size in self.shape[2:])
        return 1, self.weight[0], *places

    def work(self, block: int) -> tuple[str, Work]:
        """Return the table's kind and the sizes."""
        read, written = (float(np.prod(shape)) for shape in (self.shape, self.out()))
        return conv_work(self.weight, self.groups, read, written, block)

    def model(self, *, integer: bool) -> ir.Model:
        """Build the model."""
        made, axes = SmallModel(self.shape, integer=integer), len(self.shape) - 2
        pads = [size // 2 for size in self.weight[2:]] * 2
        weight = weight_of(self.weight)
        return made.finished(
            made.op("Conv", made.start, weight, pads=pads, strides=[self.stride] * axes, group=self.groups)
        )


class _Draw:
    """Random choices."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def one(self, *values: int) -> int:
        """Return one of the values."""
        return int(self.random.choice(values))

    def happens(self, chance: float) -> bool:
        """Return true with this probability."""
        return bool(self.random.random() < chance)


def _dense(draw: _Draw) -> _Convolution:
    size = draw.one(3, 5, 7, 10, 14, 20, 28, 40, 56, 80, 112)
    channels = 8, 8, 16, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384
    kernel = draw.one(1, 1, 1, 3, 3, 3, 5, 7)
    before, after = draw.one(*channels), draw.one(4, *channels)
    return _Convolution((1, before, size, size), (after, before, kernel, kernel), 1, draw.one(1, 1, 2))


def _depthwise(draw: _Draw) -> _Convolution:
    size, channels = (
        draw.one(5, 7, 10, 14, 20, 28, 40, 56, 80, 112),
        draw.one(8, 16, 32, 48, 64, 96, 128, 192, 256, 384),
    )
    kernel = draw.one(3, 3, 5, 7)
    return _Convolution((1, channels, size, size), (channels, 1, kernel, kernel), channels, draw.one(1, 1, 2))


def _stem(draw: _Draw) -> _Convolution:
    """Draw a convolution of few channels, like the first and last ones of models."""
    size, kernel = draw.one(28, 56, 112, 160, 224), draw.one(3, 3, 5, 7, 9)
    before, after = draw.one(1, 2, 3, 3, 3, 4, 6), draw.one(3, 8, 16, 24, 32, 64)
    return _Convolution((1, before, size, size), (after, before, kernel, kernel), 1, draw.one(1, 2))


def _outside(draw: _Draw) -> _Convolution:
    """Draw a convolution that has no blocked layout: over one axis, or with partial blocks."""
    axes = draw.one(1, 1, 2)
    sizes, channels = (
        ((4, 16, 50, 100, 300, 1000, 3000), (16, 24, 32, 64, 96, 128, 256, 512))
        if axes == 1
        else ((3, 5, 7, 10, 14, 20, 28, 40, 56), (17, 18, 22, 30, 35, 58, 90, 122))
    )
    size, before, after = draw.one(*sizes), draw.one(*channels), draw.one(*channels)
    kernel, stride = draw.one(1, 1, 3, 3, 5, 7), draw.one(1, 1, 2)
    if kernel > 1 and draw.happens(0.4):
        return _Convolution((1, before, *[size] * axes), (before, 1, *[kernel] * axes), before, stride)
    return _Convolution((1, before, *[size] * axes), (after, before, *[kernel] * axes), 1, stride)


def _grouped(draw: _Draw) -> _Convolution | None:
    """Draw a convolution of several channels per group, or of several outputs per channel."""
    size, kernel, stride = (
        draw.one(4, 7, 14, 20, 28, 40, 56),
        draw.one(1, 3, 3, 5, 7),
        draw.one(1, 1, 2),
    )
    inside, more, groups = (
        draw.one(1, 2, 4, 8, 16, 32, 64),
        draw.one(1, 1, 2, 4),
        draw.one(2, 4, 8, 16, 32, 64),
    )
    before, after = inside * groups, inside * more * groups
    if inside * more == 1 or before > 512 or after > 1024:
        return None
    return _Convolution((1, before, size, size), (after, inside, kernel, kernel), groups, stride)


@dataclass(frozen=True)
class _Product:
    """Sizes of a matrix product: rows, length of the sums, columns."""

    rows: int
    deep: int
    columns: int

    def work(self, _block: int) -> tuple[str, Work]:
        """Return the table's kind and the sizes."""
        read, written = float(self.rows * self.deep), float(self.rows * self.columns)
        return "product", product_work(self.deep * self.columns, self.deep, read, written)

    def model(self, *, integer: bool) -> ir.Model:
        """Build the model."""
        made = SmallModel((1, self.rows, self.deep), integer=integer)
        return made.finished(made.op("MatMul", made.start, weight_of((self.deep, self.columns))))


def _product(draw: _Draw) -> _Product:
    sizes = 32, 64, 72, 128, 250, 256, 384, 768, 1536
    return _Product(draw.one(1, 4, 16, 64, 128, 256), draw.one(*sizes), draw.one(*sizes))


KINDS: tuple[tuple[Callable[[_Draw], _Convolution | _Product | None], int, tuple[str, ...]], ...] = (
    (_dense, 150, ("float", "integer")),
    (_depthwise, 60, ("float", "integer")),
    (_stem, 50, ("float", "integer")),
    (_outside, 140, ("float",)),
    (_grouped, 120, ("float", "integer")),
    (_product, 70, ("float", "integer")),
)
"""Operators with weights: how their sizes are drawn, their number, and the forms in which they are timed."""


def operators(block: int, most_macs: float) -> Iterator[Case]:
    """Yield operators with weights, each in a model of its own.

    Args:
        block: channels in a block of the float layout.
        most_macs: multiply-accumulate operations of the largest kernel.
    """
    for seed, (draw_one, count, forms) in enumerate(KINDS):
        draw, found = _Draw(seed), []
        for _ in range(MOST_TRIES):
            each = draw_one(draw)
            if each is not None and each not in found and each.work(block)[1].macs <= most_macs:
                found.append(each)
            if len(found) == count:
                break
        for each in found:
            for form in forms:
                probe = Probe(f"{form} {each}", partial(each.model, integer=form == "integer"))
                yield Case((probe,), partial(_kernel_rows, form, *each.work(block)))


def _kernel_rows(form: str, kind: str, work: Work, times: Sequence[Times], _overhead: float) -> list[Row]:
    """Return the row of an operator, and those of the conversions around it."""
    rows = []
    for name, ns in times[0].items():
        if name in AROUND:
            elements = work.outputs if name in ("DequantizeLinear", "ReorderOutput") else work.inputs
            rows.append(Row(AROUND[name], Work(0, elements, 0), ns))
        elif name.startswith(KERNELS[form]):
            own = kind.removeprefix(PLAIN) if form == "integer" else kind
            rows.append(Row(f"{form} {own}", work, ns))
    return rows
