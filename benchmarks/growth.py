"""Measure how the cost of quantizing grows with samples, nodes and weights: seconds and peak memory.

    python benchmarks/growth.py [--series NAME ...] [--record FILE] [--plot FILE.png]
                                [-- OPTIONS OF onnxq quantize]

The models are generated with random weights: residual blocks of convolutions for the series over samples and
nodes, chains of square products for the series over megabytes of weights. The table has one row a size;
`float MB` is the peak memory of a process that runs the float model alone. `slope` is the exponent of the
growth between the two largest sizes: 1 is linear.
"""

import argparse
import json
import math
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from corpus_cases import divided
from harness import Measurement, print_header, print_row, quantize_command, run_measured
from onnx import TensorProto, helper, numpy_helper

from onnxq.runtime.machine import this_machine

SERIES: dict[str, tuple[int, ...]] = {
    "samples": (50, 100, 200, 500, 1000),
    "nodes": (10, 30, 100, 300, 1000, 3000),
    "megabytes": (1, 10, 100, 500, 2000),
}
SAMPLES, NODES = 50, 30
CHANNELS, SIZE, WIDTH = 32, 32, 1024
RANDOM = np.random.default_rng(0)
FLOAT_INFERENCE = Path(__file__).with_name("float_inference.py")


def convolutions(path: Path, nodes: int) -> None:
    """Write a model of residual blocks: two 3x3 convolutions with a Relu between.

    The gain of each block keeps the outputs' size independent of the depth.
    """
    weights, layers, value = [], [], "x"
    blocks = max(1, nodes // 4)

    def conv(source: str, name: str, gain: float) -> str:
        kernel = RANDOM.normal(size=(CHANNELS, CHANNELS, 3, 3)) * gain / np.sqrt(CHANNELS * 9 / 2)
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{name}"))
        layers.append(helper.make_node("Conv", [source, f"w{name}"], [f"c{name}"], pads=[1, 1, 1, 1]))
        return f"c{name}"

    for i in range(blocks):
        layers.append(helper.make_node("Relu", [conv(value, f"{i}a", 1.0)], [f"r{i}"]))
        layers.append(helper.make_node("Add", [conv(f"r{i}", f"{i}b", blocks**-0.5), value], [f"s{i}"]))
        value = f"s{i}"
    save(path, layers, weights, value, [1, CHANNELS, SIZE, SIZE])


def products(path: Path, megabytes: int) -> None:
    """Write a chain of square products with Relus between; its weights fill `megabytes`."""
    width = WIDTH if megabytes >= 4 else WIDTH // 4
    weights, layers, value = [], [], "x"
    for i in range(max(1, megabytes * 10**6 // (4 * width * width))):
        weight = RANDOM.normal(size=(width, width)) * np.sqrt(2 / width)
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"w{i}"))
        layers.append(helper.make_node("MatMul", [value, f"w{i}"], [f"c{i}"]))
        layers.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        value = f"r{i}"
    save(path, layers, weights, value, [16, width])


def save(path: Path, layers: list[Any], weights: list[Any], output: str, shape: list[int]) -> None:
    """Write a model with its weights as external data, and random samples in calib/ beside it."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", output)]
    graph = helper.make_graph(layers, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")
    folder = path.parent / "calib"
    folder.mkdir()
    for i in range(max(SERIES["samples"])):
        np.save(folder / f"{i:04}.npy", RANDOM.normal(size=shape).astype(np.float32))


def measured(command: list[str]) -> Measurement:
    """Run a command that must succeed; return its time and its peak memory."""
    measurement = run_measured(command)
    if measurement.process.returncode:
        raise SystemExit(measurement.process.stderr)
    return measurement


def point(series: str, size: int, options: list[str]) -> dict[str, Any]:
    """Quantize a model of one size and measure its cost beside that of float inference."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        path, calib = scratch / "model.onnx", scratch / "calib"
        if series == "megabytes":
            products(path, size)
        else:
            convolutions(path, size if series == "nodes" else NODES)
        samples = size if series == "samples" else SAMPLES
        output = scratch / "model.int8.onnx"
        cost = measured(quantize_command(path, calib, output, "--samples", str(samples), *options))
        bare = measured([sys.executable, str(FLOAT_INFERENCE), str(path), str(calib / "0000.npy")])
    return {
        "series": series,
        "size": size,
        "seconds": round(cost.seconds, 2),
        "peak_mb": round(cost.peak_mb),
        "float_mb": round(bare.peak_mb),
    }


def plot(points: list[dict[str, Any]], path: Path) -> None:
    """Draw seconds and memory over size, one panel a series."""
    import matplotlib.pyplot as plt

    present = list(dict.fromkeys(point["series"] for point in points))
    _, axes = plt.subplots(1, len(present), figsize=(5 * len(present), 4), squeeze=False)
    for axis, series in zip(axes[0], present, strict=True):
        found = [point for point in points if point["series"] == series]
        sizes = [point["size"] for point in found]
        axis.loglog(sizes, [point["seconds"] for point in found], "o-", label="seconds")
        other = axis.twinx()
        other.loglog(sizes, [point["peak_mb"] for point in found], "s--", color="C1", label="peak MB")
        other.loglog(sizes, [point["float_mb"] for point in found], ":", color="gray", label="float MB")
        axis.set(xlabel=series, ylabel="seconds")
        other.set_ylabel("MB")
        for each in (axis, other):  # at least a decade, so that a nearly flat curve looks flat
            values = [value for line in each.get_lines() for value in line.get_ydata()]
            each.set_ylim(min(values) / 3, max(values) * 10)
        lines = axis.get_lines() + other.get_lines()
        axis.legend(lines, [str(line.get_label()) for line in lines], fontsize=8)
    plt.tight_layout()
    plt.savefig(path, dpi=90)


def main() -> None:
    """Print a row for each size and the slope of each series."""
    own, options = divided(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", nargs="*", choices=list(SERIES), default=list(SERIES))
    parser.add_argument("--record", type=Path, help="write all results to this JSON file")
    parser.add_argument("--plot", type=Path, help="draw the results to this picture")
    args = parser.parse_args(own)
    points: list[dict[str, Any]] = []
    print_header(["series", "size", "seconds", "peak MB", "float MB"])
    for series in args.series:
        for size in SERIES[series]:
            points.append(point(series, size, options))
            print_row(points[-1].values())
        before, last = points[-2:]
        slope = math.log(last["seconds"] / before["seconds"]) / math.log(last["size"] / before["size"])
        print_row([series, "slope", f"{slope:.2f}", "", ""])
    if args.record:
        args.record.write_text(json.dumps({"machine": asdict(this_machine()), "points": points}, indent=1))
    if args.plot:
        plot(points, args.plot)


if __name__ == "__main__":
    main()
