"""Quantize a segmentation network for large pictures; print the cost in units of the float model's own.

    python benchmarks/large_pictures.py [--size 1024] [--width 16] [--samples 8] [--record FILE]
                                        [-- OPTIONS OF onnxq quantize]

The network is an encoder and a decoder with residual sums, Resize and Concat, with random weights; the
pictures are made of smooth random shapes. `float MB` is the peak memory of a process that loads and runs the
float model on one picture, `peak MB` that of `onnxq quantize`. `R` is the CPU time of the command divided by
that of float inference on one thread over all samples.
"""

import argparse
import json
import resource
import sys
import tempfile
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from corpus_cases import divided
from harness import Measurement, print_header, print_row, quantize_command, run_measured
from onnx import TensorProto, helper, numpy_helper

from onnxq.runtime.machine import this_machine

CLASSES, LEVELS, ROUNDS = 19, 4, 3
FLOAT_INFERENCE = Path(__file__).with_name("float_inference.py")
COLUMNS = ("size", "width", "samples", "float MB", "peak MB", "ratio", "float s", "CPU s", "R")


class Network:
    """Nodes and weights of a network that grows layer by layer; every layer keeps the size of its values."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.chance = np.random.default_rng(0)

    def add(self, op_type: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node; return its output."""
        name = f"{op_type.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def constant(self, array: Any) -> str:
        """Add an initializer; return its name."""
        name = f"constant{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def conv(
        self, source: str, before: int, after: int, kernel: int = 3, gain: float = 2.0, **more: Any
    ) -> str:
        """Append a convolution with a bias; `gain` is that of the values' power behind a Relu."""
        shape = (after, before, kernel, kernel)
        weight = self.chance.normal(size=shape) * np.sqrt(gain / (before * kernel**2))
        bias = self.chance.normal(size=after) * 0.1
        inputs = [source, *(self.constant(array.astype(np.float32)) for array in (weight, bias))]
        return self.add("Conv", inputs, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4, **more)

    def relu_conv(self, source: str, before: int, after: int, **more: Any) -> str:
        """Append a convolution and a Relu."""
        return self.add("Relu", [self.conv(source, before, after, **more)])

    def residual(self, source: str, channels: int) -> str:
        """Append a residual block."""
        inner = self.relu_conv(source, channels, channels)
        return self.add("Relu", [self.add("Add", [self.conv(inner, channels, channels, gain=0.5), source])])

    def doubled(self, source: str) -> str:
        """Append a Resize to twice the height and width."""
        scales = self.constant(np.array([1, 1, 2, 2], np.float32))
        return self.add(
            "Resize", [source, "", scales], mode="linear", coordinate_transformation_mode="half_pixel"
        )


def segmentation(path: Path, size: int, width: int) -> None:
    """Write the network for pictures [1, 3, size, size]; it gives scores [1, CLASSES, size, size]."""
    network = Network()
    channels = [width << level for level in range(LEVELS)]
    value = network.relu_conv("x", 3, width, strides=[2, 2])
    skips = [network.residual(value, width)]
    for before, after in pairwise(channels):
        value = network.relu_conv(skips[-1], before, after, strides=[2, 2])
        skips.append(network.residual(value, after))
    value = skips.pop()
    for after, skip in zip(channels[-2::-1], skips[::-1], strict=True):
        joined = network.add("Concat", [network.doubled(value), skip], axis=1)
        value = network.residual(network.relu_conv(joined, 3 * after, after), after)
    network.doubled(network.conv(value, width, CLASSES, kernel=1, gain=1.0))
    network.nodes[-1].output[0] = "y"
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, count, size, size])
        for name, count in (("x", 3), ("y", CLASSES))
    ]
    graph = helper.make_graph(network.nodes, "segmentation", ends[:1], ends[1:], network.weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def pictures(folder: Path, size: int, count: int) -> None:
    """Write pictures [1, 3, size, size]: sums of smooth random waves."""
    folder.mkdir()
    chance = np.random.default_rng(1)
    axis = np.linspace(0, 1, size, dtype=np.float32)
    for i in range(count):
        waves = np.zeros((3, size, size), np.float32)
        for frequency in (2, 5, 11, 31):
            a, b, phase = chance.normal(size=(3, 3, 1, 1)).astype(np.float32)
            waves += np.sin(frequency * (a * axis[:, None] + b * axis) + 3 * phase) / 2
        np.save(folder / f"{i:03}.npy", waves[None])


def measured(command: list[str]) -> tuple[Measurement, float]:
    """Run a command that must succeed; return its measurement and its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    measurement = run_measured(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if measurement.process.returncode:
        raise SystemExit(measurement.process.stderr)
    return measurement, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def inference_seconds(path: Path, sample: Path) -> float:
    """Return the CPU seconds of one float inference: further runs in one process cost nothing else."""
    command = [sys.executable, str(FLOAT_INFERENCE), str(path), str(sample)]
    (_, once), (_, more) = (measured([*command, str(runs)]) for runs in (1, 1 + ROUNDS))
    return (more - once) / ROUNDS


def point(size: int, width: int, samples: int, options: list[str]) -> dict[str, Any]:
    """Quantize the network of one size and measure its cost beside that of float inference."""
    with tempfile.TemporaryDirectory() as scratch:
        path, calib = Path(scratch) / "model.onnx", Path(scratch) / "calib"
        segmentation(path, size, width)
        pictures(calib, size, samples)
        sample = calib / "000.npy"
        bare, _ = measured([sys.executable, str(FLOAT_INFERENCE), str(path), str(sample)])
        seconds = inference_seconds(path, sample)
        cost, cpu = measured(quantize_command(path, calib, Path(scratch) / "model.int8.onnx", *options))
    return {
        "size": size,
        "width": width,
        "samples": samples,
        "float_mb": round(bare.peak_mb),
        "peak_mb": round(cost.peak_mb),
        "ratio": round(cost.peak_mb / bare.peak_mb, 2),
        "float_seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 1),
        "R": round(cpu / seconds / samples, 1),
    }


def main() -> None:
    """Print a row for each size."""
    own, options = divided(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--size", type=int, nargs="*", default=[1024], help="height and width of the pictures"
    )
    parser.add_argument("--width", type=int, default=16, help="channels at half of the size")
    parser.add_argument("--samples", type=int, default=8, help="number of pictures")
    parser.add_argument("--record", type=Path, help="write all results to this JSON file")
    args = parser.parse_args(own)
    points = []
    print_header(COLUMNS)
    for size in args.size:
        points.append(point(size, args.width, args.samples, options))
        print_row(points[-1].values())
    if args.record:
        args.record.write_text(json.dumps({"machine": asdict(this_machine()), "points": points}, indent=1))


if __name__ == "__main__":
    main()
