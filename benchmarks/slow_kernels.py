"""Reproduce the integer kernels of ONNX Runtime that are slower than they should be.

    python benchmarks/slow_kernels.py [--threads 1] [--seconds 1] [--save FOLDER]
    python benchmarks/older_cpu.py python benchmarks/slow_kernels.py

Each row is a model of one to three operators in float and on integers; the first row is a convolution whose
integer kernel is as fast as it should be, to compare with. The time is the least of whole runs, both models
in turns, because other work only makes them slower. The result is docs/slow-kernels.md. With --save the
models are written, for a bug report.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
from harness import print_header, print_row

from onnxq.graph.edit import tidy
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
        models = []
        for integer in (False, True):
            made = SmallModel(shape, integer=integer)
            models.append(made.finished(make(made)))
            tidy(models[-1])
        if args.save is not None:
            args.save.mkdir(parents=True, exist_ok=True)
            for form, model in zip(("float", "int8"), models, strict=True):
                ir.save(model, args.save / f"{name.replace(' ', '_').replace('/', '_')}.{form}.onnx")
        sessions = [open_session(model, threads=args.threads) for model in models]
        feeds = [random_feeds(models[0])]
        for session in sessions:
            session.run(None, feeds[0])
        float_ms, int8_ms = map(min, time_in_turns(sessions, feeds, 2000, args.seconds))
        print_row([name, f"{float_ms:.3f}", f"{int8_ms:.3f}", f"{int8_ms / float_ms:.2f}"])


if __name__ == "__main__":
    main()
