"""Time float operators of ONNX Runtime, and other operators that give the same values.

    python benchmarks/float_kernels.py [--threads 1] [--seconds 1] [--only NAME ...]

The table gives the least nanoseconds per element of the result, in turns where an operator has another form.
It tells which kernels are worth a rewrite; slow_kernels.py has the rewrites that onnxq does. The result is in
docs/slow-kernels.md.
"""

import argparse
import math

import numpy as np
import onnx_ir as ir
from harness import print_header, print_row
from slow_kernels import Maker, least_ms, made_of, operator

from onnxq.profiling.models import SmallModel, random_feeds
from onnxq.runtime.machine import this_machine
from onnxq.runtime.sessions import open_session

IMAGE = (1, 64, 56, 56)
SEQUENCE, SOUND = (1, 784, 256), (1, 64, 3136)
ONES = np.ones(256, np.float32)
Shape = tuple[int, ...]


def numbers(*values: float) -> np.ndarray:
    """Return floats."""
    return np.array(values, np.float32)


def whole(*values: int) -> np.ndarray:
    """Return int64 numbers."""
    return np.array(values, np.int64)


def resize(mode: str, **how: str) -> Maker:
    """Return a maker of a Resize to twice the size."""
    return lambda made: made.op("Resize", made.start, None, numbers(1, 1, 2, 2), mode=mode, **how)


def chosen(made: SmallModel) -> ir.Value:
    """Append Where(x > 0, x, 0)."""
    return made.op("Where", made.op("Greater", made.start, np.float32(0)), made.start, np.float32(0))


def response_norm(made: SmallModel) -> ir.Value:
    """Append an LRN over five channels, of exponent 0.75, as a pool of squares."""
    squares = made.op("Reshape", made.op("Mul", made.start, made.start), whole(1, 1, 64, 3136))
    pool = made.op("AveragePool", squares, kernel_shape=[5, 1], pads=[2, 0, 2, 0], count_include_pad=1)
    sums = made.op("Add", made.op("Mul", made.op("Reshape", pool, whole(*IMAGE)), numbers(1e-4)), numbers(1))
    root = made.op("Sqrt", sums)
    return made.op("Div", made.start, made.op("Mul", root, made.op("Sqrt", root)))


def pools(made: SmallModel) -> ir.Value:
    """Append a MaxPool of 13 x 13 as one of columns and one of rows."""
    columns = made.op("MaxPool", made.start, kernel_shape=[13, 1], pads=[6, 0, 6, 0])
    return made.op("MaxPool", columns, kernel_shape=[1, 13], pads=[0, 6, 0, 6])


def product(made: SmallModel) -> ir.Value:
    """Append a product with a matrix over the channels."""
    joined = made.op("Reshape", made.start, whole(1, 64, 3136))
    return made.op("Reshape", made.op("MatMul", matrix(), joined), whole(*IMAGE))


def matrix() -> np.ndarray:
    """Return a random matrix of 64 x 64."""
    return np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)


def two_means(made: SmallModel) -> ir.Value:
    """Append an InstanceNormalization, written out."""
    central = made.op("Sub", made.start, made.op("ReduceMean", made.start, whole(2, 3)))
    variance = made.op("ReduceMean", made.op("Mul", central, central), whole(2, 3))
    return made.op("Div", central, made.op("Sqrt", made.op("Add", variance, numbers(1e-5))))


def scattered(made: SmallModel) -> ir.Value:
    """Append a ScatterND of single elements into half of the image."""
    places = np.stack(np.meshgrid([0], *(np.arange(n) for n in (64, 28, 56)), indexing="ij"), axis=-1)
    return made.op("ScatterND", made.start, places, np.ones((1, 64, 28, 56), np.float32))


def sampled(made: SmallModel) -> ir.Value:
    """Append a linear GridSample at random places."""
    places = np.random.default_rng(0).uniform(-1, 1, (1, 56, 56, 2)).astype(np.float32)
    return made.op("GridSample", made.start, places)


def tanh_gelu(made: SmallModel) -> ir.Value:
    """Append the Gelu with a Tanh."""
    x = made.start
    cube = made.op("Mul", made.op("Pow", x, numbers(3)), numbers(0.044715))
    curve = made.op("Tanh", made.op("Mul", made.op("Add", x, cube), numbers(0.79788456)))
    return made.op("Mul", made.op("Mul", x, numbers(0.5)), made.op("Add", curve, numbers(1)))


def hard_swish(made: SmallModel) -> ir.Value:
    """Append x * Clip(x + 3, 0, 6) / 6."""
    clipped = made.op("Clip", made.op("Add", made.start, numbers(3)), np.float32(0), np.float32(6))
    return made.op("Mul", made.start, made.op("Div", clipped, numbers(6)))


ROWS = (7245, 384)
TARGETS = np.random.default_rng(0).integers(0, 231, ROWS[0])
"""The row to which each of ROWS is added, as messages to the nodes of a graph."""


def added(op_type: str) -> Maker:
    """Return a maker of sums of rows by target: ScatterElements as PyTorch exports it, or ScatterND."""
    places = np.broadcast_to(TARGETS[:, None], ROWS) if op_type == "ScatterElements" else TARGETS[:, None]
    zeros = np.zeros((231, ROWS[1]), np.float32)
    return lambda made: made.op(op_type, zeros, np.ascontiguousarray(places), made.start, reduction="add")


SQUARE = {"kernel_shape": [13, 13], "pads": [6] * 4}
CASES: dict[str, tuple[Shape, Shape, list[Maker]]] = {
    "Relu (to compare with)": (IMAGE, IMAGE, [operator("Relu")]),
    "LpPool 3 x 3": (IMAGE, IMAGE, [operator("LpPool", kernel_shape=[3, 3], pads=[1] * 4, p=2)]),
    "Resize, cubic": (IMAGE, (1, 64, 112, 112), [resize("cubic")]),
    "LRN; pool of squares": (IMAGE, IMAGE, [operator("LRN", size=5), response_norm]),
    "Pow 1.5": (IMAGE, IMAGE, [operator("Pow", numbers(1.5))]),
    "Mod of floats": (IMAGE, IMAGE, [operator("Mod", numbers(3), fmod=1)]),
    "Greater, Where": (IMAGE, IMAGE, [chosen]),
    "Einsum over channels; MatMul": (
        IMAGE, IMAGE,
        [lambda made: made.op("Einsum", made.start, matrix(), equation="bchw,cd->bdhw"), product],
    ),
    "MaxPool 13 x 13; columns, then rows": (IMAGE, IMAGE, [operator("MaxPool", **SQUARE), pools]),
    "AveragePool 13 x 13": (IMAGE, IMAGE, [operator("AveragePool", **SQUARE)]),
    "ScatterND of single elements": (IMAGE, IMAGE, [scattered]),
    "ScatterElements that adds rows, per element added; ScatterND": (
        ROWS, ROWS, [added("ScatterElements"), added("ScatterND")]
    ),
    "Transpose 0 3 2 1": (IMAGE, IMAGE, [operator("Transpose", perm=[0, 3, 2, 1])]),
    "Transpose 0 2 3 1": (IMAGE, IMAGE, [operator("Transpose", perm=[0, 2, 3, 1])]),
    "Gather, last axis": (IMAGE, IMAGE, [operator("Gather", whole(*reversed(range(56))), axis=3)]),
    "CumSum, last axis": (IMAGE, IMAGE, [operator("CumSum", np.int64(3))]),
    "Elu": (IMAGE, IMAGE, [operator("Elu")]),
    "GridSample, linear": (IMAGE, IMAGE, [sampled]),
    "Log": (IMAGE, IMAGE, [operator("Log")]),
    "Sin": (IMAGE, IMAGE, [operator("Sin")]),
    "DepthToSpace": (IMAGE, IMAGE, [operator("DepthToSpace", blocksize=2)]),
    "Resize, linear": (IMAGE, (1, 64, 112, 112), [resize("linear")]),
    "Resize, nearest": (
        IMAGE, (1, 64, 112, 112),
        [resize("nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
    ),
    "AveragePool, 1-D": (SOUND, SOUND, [operator("AveragePool", kernel_shape=[3], pads=[1, 1])]),
    "MaxPool, 1-D": (SOUND, SOUND, [operator("MaxPool", kernel_shape=[3], pads=[1, 1])]),
    "Gelu with Tanh": (IMAGE, IMAGE, [tanh_gelu]),
    "LayerNormalization": (
        SEQUENCE, SEQUENCE, [operator("LayerNormalization", ONES, ONES * 0)]
    ),
    "InstanceNormalization; written out": (
        IMAGE, IMAGE, [operator("InstanceNormalization", ONES[:64], ONES[:64] * 0), two_means]
    ),
    "HardSwish; x Clip(x + 3) / 6": (IMAGE, IMAGE, [operator("HardSwish"), hard_swish]),
    "HardSigmoid": (IMAGE, IMAGE, [operator("HardSigmoid")]),
    "Clip": (IMAGE, IMAGE, [operator("Clip", np.float32(0), np.float32(6))]),
    "Tile": (IMAGE, (1, 128, 56, 56), [operator("Tile", whole(1, 2, 1, 1))]),
    "Expand": ((1, 1, 56, 56), IMAGE, [operator("Expand", whole(*IMAGE))]),
    "ReduceL2 over channels, per element read": (IMAGE, IMAGE, [operator("ReduceL2", whole(1))]),
    "ReduceMean over channels, per element read": (IMAGE, IMAGE, [operator("ReduceMean", whole(1))]),
}  # fmt: skip
"""Shape of the input, shape whose elements count, and the forms, by name."""


def differing_sums(runs: int = 100) -> int:
    """Count the runs on two threads in which ScatterND adds otherwise than on one thread."""
    models = [made_of(ROWS, added("ScatterND")) for _ in range(2)]
    feeds = random_feeds(models[0])
    one, two = (open_session(model, threads=n).run for n, model in enumerate(models, 1))
    (expected,) = one(None, feeds)
    return sum(not np.array_equal(two(None, feeds)[0], expected) for _ in range(runs))


def main() -> None:
    """Print a row for each operator."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="time limit of each row")
    parser.add_argument("--only", nargs="*", help="only rows whose names contain one of these")
    args = parser.parse_args()
    machine = this_machine()
    print(f"{machine.cpu}, {' '.join(machine.instructions)}, {args.threads} threads, ", end="")
    print(f"onnxruntime {machine.onnxruntime}\n")
    print_header(["operator; other form", "ns per element", "other form"])
    for name, (shape, counted, forms) in CASES.items():
        if args.only and not any(part in name for part in args.only):
            continue
        times = least_ms([made_of(shape, form) for form in forms], args.threads, args.seconds)
        cells = [f"{ms * 1e6 / math.prod(counted):.2f}" for ms in times]
        print_row([name, *cells, *["-"] * (2 - len(cells))])
    print(f"\nScatterND that adds, on two threads: {differing_sums()} of 100 runs differ from one thread")


if __name__ == "__main__":
    main()
