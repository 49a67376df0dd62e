"""Reproduce the kernels of ONNX Runtime that are slower than they should be.

    python benchmarks/slow_kernels.py [--threads 1] [--seconds 1] [--save FOLDER]
    python benchmarks/older_cpu.py python benchmarks/slow_kernels.py

Each row of the first table is a model of one to three operators in float and on integers; the first row is a
convolution whose integer kernel is as fast as it should be, to compare with. The second table has float
operators, and the same values from the operators that onnxq writes in their place. The time is the least of
whole runs, both models in turns, because other work only makes them slower. The result is
docs/slow-kernels.md. With --save the models are written, for a bug report.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
from harness import print_header, print_row

from onnxq.formats.activations import replace_slow_activations
from onnxq.formats.gelu import fuse_gelu
from onnxq.formats.layer_norms import keep_sums_apart
from onnxq.formats.outer_products import multiply_outer
from onnxq.graph.edit import tidy
from onnxq.graph.shapes import infer_shapes
from onnxq.normalize.passes import normalize
from onnxq.profiling.models import SmallModel, random_feeds, weight_of
from onnxq.runtime.latency import time_in_turns
from onnxq.runtime.machine import this_machine
from onnxq.runtime.sessions import open_session

Maker = Callable[[SmallModel], ir.Value]
"""Appends the operators to the input of a model and returns the output."""


def convolution(*weight: int, group: int = 1) -> Maker:
    """Return a maker of one convolution with a weight of this shape."""
    pads = [size // 2 for size in weight[2:]] * 2
    return lambda made: made.op("Conv", made.start, weight_of(weight), pads=pads, group=group)


def between(middle: Callable[[SmallModel, ir.Value], ir.Value], channels: int) -> Maker:
    """Return a maker of two pointwise convolutions with an operator between them."""

    def make(made: SmallModel) -> ir.Value:
        first = made.op("Conv", made.start, weight_of((channels, channels, 1, 1)))
        return made.op("Conv", middle(made, first), weight_of((channels, channels, 1, 1)))

    return make


def clip(made: SmallModel, value: ir.Value) -> ir.Value:
    """Append HardSigmoid's form on integers: a Clip of what is stored; in float, the HardSigmoid."""
    if not made.integer:
        return made.op("HardSigmoid", value)
    stored = value.producer().inputs[0]
    clipped = made.plain("Clip", stored, np.array(10, np.uint8), np.array(200, np.uint8))
    return made.plain("DequantizeLinear", clipped, *value.producer().inputs[1:])


def clip_and_pool(made: SmallModel) -> ir.Value:
    """Append a convolution, a Clip of stored integers, and a MaxPool before no further convolution."""
    clipped = clip(made, made.op("Conv", made.start, weight_of((64, 64, 1, 1))))
    return made.op("MaxPool", clipped, kernel_shape=[3, 3], pads=[1] * 4)


def resize(made: SmallModel, value: ir.Value) -> ir.Value:
    """Append a nearest Resize to twice the size."""
    scales = np.array([1, 1, 2, 2], np.float32)
    modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return made.op("Resize", value, None, scales, mode="nearest", **modes)


CASES: dict[str, tuple[tuple[int, ...], Maker]] = {
    "convolution 3 x 3, 64 channels (to compare with)": ((1, 64, 56, 56), convolution(64, 64, 3, 3)),
    "depthwise 3 x 3, 128 channels": ((1, 128, 56, 56), convolution(128, 1, 3, 3, group=128)),
    "depthwise 7 x 7, 128 channels": ((1, 128, 28, 28), convolution(128, 1, 7, 7, group=128)),
    "depthwise with two outputs per channel": ((1, 64, 28, 28), convolution(128, 1, 3, 3, group=64)),
    "32 groups of 4 channels": ((1, 128, 28, 28), convolution(128, 4, 3, 3, group=32)),
    "3-D convolution 3 x 3 x 3, 8 channels": ((1, 8, 16, 32, 32), convolution(8, 8, 3, 3, 3)),
    "3-D convolution 3 x 3 x 3, 32 channels": ((1, 32, 8, 28, 28), convolution(32, 32, 3, 3, 3)),
    "first convolution, 9 x 9 over 3 channels": ((1, 3, 128, 128), convolution(16, 3, 9, 9)),
    "Clip of stored integers between convolutions": ((1, 64, 56, 56), between(clip, 64)),
    "Clip of stored integers, then MaxPool": ((1, 64, 56, 56), clip_and_pool),
    "nearest Resize between convolutions": ((1, 32, 40, 40), between(resize, 32)),
    "AveragePool 3 x 3 between convolutions": (
        (1, 64, 56, 56),
        between(lambda made, value: made.op("AveragePool", value, kernel_shape=[3, 3], strides=[2, 2]), 64),
    ),
}
"""Shape of the input and operators, by name."""


def operator(op_type: str, *operands: np.ndarray, **attributes: int | float | str | list[int]) -> Maker:
    """Return a maker of one operator."""
    return lambda made: made.op(op_type, made.start, *operands, **attributes)


def mish(made: SmallModel) -> ir.Value:
    """Append x * Tanh(Softplus(x))."""
    return made.op("Mul", made.start, made.op("Tanh", made.op("Softplus", made.start)))


def gelu(made: SmallModel) -> ir.Value:
    """Append x * (1 + Erf(x / sqrt 2)) / 2."""
    x, half, one = made.start, np.array(0.5, np.float32), np.array(1.0, np.float32)
    curve = made.op("Erf", made.op("Div", x, np.array(2**0.5, np.float32)))
    return made.op("Mul", made.op("Mul", x, half), made.op("Add", curve, one))


def sum_and_norm(made: SmallModel) -> ir.Value:
    """Append a sum of two values and a layer normalization, as behind each block of a text encoder."""
    total = made.op("Add", made.op("Tanh", made.start), made.start)
    return made.op("LayerNormalization", total, np.ones(384, np.float32), np.zeros(384, np.float32), axis=-1)


def outer_product(made: SmallModel) -> ir.Value:
    """Append a product of columns of 128 and rows of 3, as of features and directions in a graph network."""
    return made.op("Mul", made.start, np.ones((2000, 1, 3), np.float32))


SLOPES = np.linspace(-0.5, 1.0, 64, dtype=np.float32).reshape(64, 1, 1)
FLOATS: dict[str, tuple[tuple[int, ...], Maker]] = {
    "Relu (to compare with)": ((1, 64, 56, 56), operator("Relu")),
    "PRelu with a slope per channel": ((1, 64, 56, 56), operator("PRelu", SLOPES)),
    "PRelu, slopes on both sides of 1": ((1, 64, 56, 56), operator("PRelu", SLOPES * 2)),
    "PRelu with one slope": ((1, 64, 56, 56), operator("PRelu", np.array([0.25], np.float32))),
    "Gelu by Erf": ((1, 128, 1536), gelu),
    "Mish": ((1, 64, 56, 56), mish),
    "Tanh, Add, LayerNormalization": ((1, 128, 384), sum_and_norm),
    "Softmax over channels of pixels": ((1, 21, 128, 128), operator("Softmax", axis=1)),
    "Softmax of a box's sides": ((1, 16, 4, 2100), operator("Softmax", axis=1)),
    "product of columns and rows": ((2000, 128, 1), outer_product),
    "power of a half": ((1, 64, 56, 56), operator("Pow", np.array(0.5, np.float32))),
}
"""Shape of the input and float operators, by name."""


def written(model: ir.Model) -> ir.Model:
    """Return the float operators that onnxq writes in place of a model's."""
    infer_shapes(model)
    model = normalize(model)
    replace_slow_activations(model)
    keep_sums_apart(model)
    multiply_outer(model)
    fuse_gelu(model)
    return model


def least_ms(models: list[ir.Model], threads: int, seconds: float) -> list[float]:
    """Return the least time of each model, in turns."""
    sessions = [open_session(model, threads=threads) for model in models]
    feeds = [random_feeds(models[0])]
    for session in sessions:
        session.run(None, feeds[0])
    return [min(times) for times in time_in_turns(sessions, feeds, 2000, seconds)]


def saved(folder: Path | None, name: str, models: dict[str, ir.Model]) -> None:
    """Write the models of a row, if a folder is given."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for form, model in models.items():
            ir.save(model, folder / f"{name.replace(' ', '_').replace('/', '_')}.{form}.onnx")


def made_of(shape: tuple[int, ...], make: Maker, *, integer: bool = False) -> ir.Model:
    """Return the model of a row."""
    made = SmallModel(shape, integer=integer)
    model = made.finished(make(made))
    tidy(model)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="time limit of each row")
    parser.add_argument("--save", type=Path, help="write the models to this folder")
    args = parser.parse_args()
    machine = this_machine()
    print(f"{machine.cpu}, {' '.join(machine.instructions)}, {args.threads} threads, ", end="")
    print(f"onnxruntime {machine.onnxruntime}\n")
    print_header(["operators", "float ms", "int8 ms", "int8 / float"])
    for name, (shape, make) in CASES.items():
        models = {"float": made_of(shape, make), "int8": made_of(shape, make, integer=True)}
        saved(args.save, name, models)
        float_ms, int8_ms = least_ms(list(models.values()), args.threads, args.seconds)
        print_row([name, f"{float_ms:.3f}", f"{int8_ms:.3f}", f"{int8_ms / float_ms:.2f}"])
    print()
    print_header(["float operators", "ms", "written by onnxq", "ms", "ratio"])
    for name, (shape, make) in FLOATS.items():
        models = {"float": made_of(shape, make), "written": written(made_of(shape, make))}
        saved(args.save, name, models)
        before, after = least_ms(list(models.values()), args.threads, args.seconds)
        operators = ", ".join(node.op_type for node in models["written"].graph)
        print_row([name, f"{before:.3f}", operators, f"{after:.3f}", f"{after / before:.2f}"])


if __name__ == "__main__":
    main()
