"""The kernels that a target file is fitted to."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from onnxq.cost.model import Work, transposed
from onnxq.profiling.cases import AROUND, Case
from onnxq.profiling.fit import Row
from onnxq.profiling.measurement import Probe, Times
from onnxq.profiling.models import MICROSOFT, SmallModel, weight_of
from onnxq.profiling.operators import operators

MOST_MACS = 100e6
"""Multiply-accumulate operations of the largest kernel."""
FORMS = ((False, "float"), (True, "integer"))


def all_cases(block: int, most_macs: float = MOST_MACS) -> list[Case]:
    """Return all cases, always the same.

    Args:
        block: channels in a block of the float layout.
        most_macs: multiply-accumulate operations of the largest kernel.
    """
    return [
        *operators(block, most_macs),
        *_between(),
        *_fused(),
        *_transposes(),
        *_broadcasts(),
        *_chains(),
        *_clips(),
    ]


# operators between two convolutions, in the layout of these, layout changes included


def _concat(made: SmallModel, value: ir.Value) -> ir.Value:
    return made.op("Concat", value, value, axis=1)


def _average_pool(made: SmallModel, value: ir.Value) -> ir.Value:
    return made.op("AveragePool", value, kernel_shape=[3, 3], strides=[2, 2])


def _resize(made: SmallModel, value: ir.Value) -> ir.Value:
    asymmetric = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return made.op("Resize", value, None, np.array([1, 1, 2, 2], np.float32), mode="nearest", **asymmetric)


def _nothing(_made: SmallModel, value: ir.Value) -> ir.Value:
    return value


Middle = Callable[[SmallModel, ir.Value], ir.Value]
"""Appends operators to a value."""
BETWEEN: dict[str, Middle] = {"Concat": _concat, "AveragePool": _average_pool, "Resize": _resize}


def _sandwich(middle: Middle, channels: int, size: int, produced: int, *, integer: bool) -> ir.Model:
    """Return a model of two convolutions with operators between them."""
    made = SmallModel((1, 8, size, size), integer=integer)
    first = made.op("Conv", made.start, weight_of((channels, 8, 1, 1)))
    return made.finished(made.op("Conv", middle(made, first), weight_of((8, produced, 1, 1))))


def _between() -> Iterator[Case]:
    for channels, size in ((64, 28), (32, 56), (96, 28), (48, 40), (64, 56), (128, 20), (24, 80)):
        written = {
            "Concat": 2 * channels * size**2,
            "AveragePool": channels * ((size - 3) // 2 + 1) ** 2,
            "Resize": 4 * channels * size**2,
        }
        for integer, form in FORMS:
            name = f"{form} between {channels} {size}"
            plain = partial(_sandwich, _nothing, channels, size, channels, integer=integer)
            for op_type, middle in BETWEEN.items():
                produced = 2 * channels if op_type == "Concat" else channels
                make = partial(_sandwich, middle, channels, size, produced, integer=integer)
                probes = Probe(f"{name} {op_type}", make, exact=True), Probe(name, plain, exact=True)
                work = Work(0, size**2 * channels, written[op_type])
                yield Case(probes, partial(_difference, f"{form} {op_type}", work))


def _difference(name: str, work: Work, times: Sequence[Times], overhead: float) -> list[Row]:
    """Return the time that the first model takes longer than the second; one call at least."""
    longer, shorter = (sum(each.values()) for each in times)
    return [Row(name, work, max(longer - shorter, overhead))]


# activations that a float convolution computes; a fused Relu costs nothing


def _clip_6(made: SmallModel, value: ir.Value) -> ir.Value:
    return made.op("Clip", value, np.array(0, np.float32), np.array(6, np.float32))


FUSED: dict[str, Middle] = {
    "Clip": _clip_6,
    "LeakyRelu": lambda made, value: made.op("LeakyRelu", value, alpha=0.1),
    "Sigmoid": lambda made, value: made.op("Sigmoid", value),
    "HardSigmoid": lambda made, value: made.op("HardSigmoid", value),
    "HardSwish": lambda made, value: made.op("HardSwish", value),
}


def _activated(shape: tuple[int, ...], weight: tuple[int, ...], groups: int, activation: Middle) -> ir.Model:
    made = SmallModel(shape)
    first = made.op("Conv", made.start, weight_of(weight), group=groups)
    return made.finished(made.op("Conv", activation(made, first), weight_of((8, weight[0], 1, 1))))


def _fused() -> Iterator[Case]:
    # few MACs, so that the activation takes a large part of the time
    for before, after, size, groups in (
        (8, 96, 112, 1),
        (16, 64, 80, 1),
        (8, 64, 56, 1),
        (128, 128, 28, 128),
        (64, 64, 56, 64),
        (32, 32, 112, 32),
    ):
        shape, weight = (1, before, size, size), (after, before // groups, 1, 1)
        name, elements = f"fused {weight} {size}", size**2 * after
        plain = Probe(name, partial(_activated, shape, weight, groups, _nothing), exact=True)
        for op_type, activation in FUSED.items():
            make = partial(_activated, shape, weight, groups, activation)
            probe = Probe(f"{name} {op_type}", make, exact=True)
            work = Work(0, elements, elements)
            yield Case((probe, plain), partial(_added, f"float fused {op_type}", work))


def _added(name: str, work: Work, times: Sequence[Times], overhead: float) -> list[Row]:
    """Return the time that the first model takes longer than the second, but for layout changes.

    It is no call of its own: for no elements, no time is added.
    """
    longer, shorter = (sum(ns for op_type, ns in each.items() if op_type not in AROUND) for each in times)
    return [Row(name, work, overhead + max(0.0, longer - shorter)), Row(name, Work(0, 0, 0), overhead)]


# integers alone


def _transposes() -> Iterator[Case]:
    """Yield changes of integers into the layout of the integer convolutions."""
    usual = (
        (3, 224),
        (32, 112),
        (64, 14),
        (64, 28),
        (64, 56),
        (96, 40),
        (256, 7),
        (256, 14),
        (128, 28),
        (128, 20),
    )
    alike = (3, 32), (16, 32), (48, 64), (96, 64), (64, 64), (128, 32), (192, 32), (32, 128), (96, 128)
    for channels, size in (*usual, *alike):
        shape = (1, channels, size, size)
        probe = Probe(f"transpose {shape}", partial(_transpose, shape))
        yield Case((probe,), partial(_one_kernel, "integer transpose", transposed(shape)))


def _transpose(shape: tuple[int, ...]) -> ir.Model:
    made = SmallModel(shape, dtype="UINT8")
    return made.finished(made.plain("Transpose", made.input, perm=[0, 2, 3, 1]), "UINT8")


def _one_kernel(name: str, work: Work, times: Sequence[Times], _overhead: float) -> list[Row]:
    return [Row(name, work, sum(times[0].values()))]


def _broadcasts() -> Iterator[Case]:
    """Yield sums and products with the channels last, one operand with a value per channel."""
    for op_type in ("Add", "Mul"):
        for channels, places in (
            (16, 4096),
            (64, 3136),
            (96, 1024),
            (32, 784),
            (256, 196),
            (200, 192),
            (512, 49),
        ):
            probe = Probe(
                f"broadcast {op_type} {channels} {places}", partial(_broadcast, op_type, channels, places)
            )
            work = Work(0, 2 * places * channels, places * channels, places=places)
            yield Case((probe,), partial(_one_kernel, f"integer {op_type}", work))


def _broadcast(op_type: str, channels: int, places: int) -> ir.Model:
    made = SmallModel((places, channels), dtype="UINT8")
    scale, zero = np.array(0.02, np.float32), np.array(3, np.uint8)
    other = np.random.default_rng(0).integers(0, 256, (1, channels), np.uint8)
    operands = made.input, scale, zero, other, scale, zero, scale, zero
    return made.finished(made.plain(f"QLinear{op_type}", *operands, domain=MICROSOFT), "UINT8")


# operators that are too short to time alone: in a chain, by the time of whole runs

CHAINED: dict[str, Callable[[SmallModel, ir.Value, ir.Value], ir.Value]] = {
    "Add": lambda made, value, _: made.op("Add", value, value),
    "Mul": lambda made, value, first: made.op("Mul", value, first),
    "Sigmoid": lambda made, value, _: made.op("Sigmoid", value),
    "LeakyRelu": lambda made, value, _: made.op("LeakyRelu", value, alpha=0.1),
    "HardSigmoid": lambda made, value, _: made.op("HardSigmoid", value),
    "Relu": lambda made, value, _: made.op("Relu", made.op("Neg", value)),
    "Neg": lambda made, value, _: made.op("Neg", value),
}
"""Operators of a chain, which get the value before them and the first one; Neg stands between two Relus."""
FLOAT_ONLY = frozenset({"HardSigmoid", "Relu", "Neg"})
SHORT, LONG = 1, 9
"""Operators in the two chains whose times are compared."""
SIZES = ((64, 1), (256, 1), (64, 4), (128, 7), (64, 14), (64, 28), (48, 40), (32, 56), (64, 56))
"""Channels and size of the images."""


def _chain(op_type: str, count: int, channels: int, size: int, *, integer: bool) -> ir.Model:
    def middle(made: SmallModel, first: ir.Value) -> ir.Value:
        value = first
        for _ in range(count):
            value = CHAINED[op_type](made, value, first)
        return value

    return _sandwich(middle, channels, size, channels, integer=integer)


def _chains() -> Iterator[Case]:
    for channels, size in SIZES:
        elements = channels * size**2
        for integer, form in FORMS:
            for op_type in CHAINED:
                if op_type == "Neg" or (integer and op_type in FLOAT_ONLY):
                    continue
                ops = (op_type, "Neg") if op_type == "Relu" else (op_type,)
                probes = [
                    Probe(
                        f"{form} chain {each} {count} {channels} {size}",
                        partial(_chain, each, count, channels, size, integer=integer),
                        wall=True,
                        exact=True,
                    )
                    for each in ops
                    for count in (SHORT, LONG)
                ]
                work = Work(0, elements * (2 if op_type in ("Add", "Mul") else 1), elements)
                yield Case(tuple(probes), partial(_one_more, f"{form} {op_type}", work))


def _one_more(name: str, work: Work, times: Sequence[Times], overhead: float) -> list[Row]:
    """Return the time of one more operator in a chain; a second pair of chains has less in each step."""
    steps = [
        (long[""] - short[""]) / (LONG - SHORT) for short, long in zip(times[::2], times[1::2], strict=True)
    ]
    added = steps[0] - sum(steps[1:])
    return [Row(name, work, overhead + max(0.0, added))]


def _clips() -> Iterator[Case]:
    """Yield Clips of integers, the form of an integer HardSigmoid."""
    for channels, size in SIZES:
        elements = channels * size**2
        probes = tuple(
            Probe(f"clip {count} {elements}", partial(_clip, count, elements), wall=True, exact=True)
            for count in (SHORT, LONG)
        )
        yield Case(probes, partial(_one_more, "integer Clip", Work(0, elements, elements)))


def _clip(count: int, elements: int) -> ir.Model:
    made = SmallModel((elements,), dtype="UINT8")
    value = made.input
    for i in range(count):  # the bounds differ, so that no two are joined
        value = made.plain("Clip", value, np.array(10 + 10 * (i % 2), np.uint8), np.array(200, np.uint8))
    return made.finished(value, "UINT8")
