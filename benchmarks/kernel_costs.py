"""Time the runtime's float and integer kernels one by one and fit the cost model.

    python benchmarks/kernel_costs.py [--block 16] [--times 3] [--rows FILE] [--csv FILE]

For CPUs without VNNI, run `python benchmarks/older_cpu.py python benchmarks/kernel_costs.py`. An operator
with weights runs in a model of its own; its time is the kernel time of the runtime's profiler. Elementwise
operators run in a chain; the time is the wall clock per additional operator. For operators that change sizes,
the time is the difference between a model with and one without them. The fit minimizes the relative error of
a sum of non-negative costs (`onnxq/cost/model.py`). The tables are `onnxq/cost/tables/*.csv`.
"""

import argparse
import csv
import json
import math
import re
import statistics
import tempfile
import timeit
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from kernel_rows import all_rows, described, single
from onnx import numpy_helper
from onnxq.cost.kernel_times import HEADER

import onnxq
from onnxq.cost.model import PLAIN, PROFILING_NS, Work, transposed

RUNS = 15
SESSIONS = 2


def profile(model: onnx.ModelProto, feeds: dict[str, np.ndarray], *, total: bool = False) -> dict[str, float]:
    """Return the median nanoseconds of one kernel of each type in a model, or their total; one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for _ in range(RUNS):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            op = event["args"]["op_name"]
            times[op, event["name"] if total else ""].append(event["dur"] * 1000)
    typical = min if total else statistics.median  # small differences of totals need the least disturbed run
    found: dict[str, float] = defaultdict(float)
    for (op, _), values in times.items():
        found[op] += typical(values[3:] or values)
    return dict(found)


BETWEEN = {
    "Concat": "r = Concat<axis=1>(t, t)",
    "AveragePool": "r = AveragePool<kernel_shape=[3,3], strides=[2,2]>(t)",
    "Resize": 'r = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", '
    'nearest_mode="floor">(t, , scales)',
}
"""Operators measured between two pointwise convolutions, in the layout of these."""
TWICE = ("Add", "Mul")


def between_rows(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Time that each operator adds to two convolutions, layout changes included, in float and quantized."""
    rows = []
    for channels, size in ((64, 28), (32, 56), (96, 28), (48, 40), (64, 56), (128, 20), (24, 80)):
        areas = {"AveragePool": ((size - 3) // 2 + 1) ** 2, "Resize": 4 * size**2}
        for integer, form in ((False, "float"), (True, "integer")):
            plain = whole(channels, size, "r = Identity(t)", channels, rng, integer=integer)
            for op, text in BETWEEN.items():
                produced = 2 * channels if op == "Concat" else channels
                added = whole(channels, size, text, produced, rng, integer=integer) - plain
                work = Work(0, size**2 * channels, areas.get(op, size**2) * produced)
                rows.append({"kind": op, "form": form, "ns": max(added, 1000.0), "work": list(work)})
    return rows


def whole(
    channels: int, size: int, text: str, produced: int, rng: np.random.Generator, *, integer: bool
) -> float:
    """Return the nanoseconds of all kernels of two convolutions with `text` between them."""
    return sum(profile(*between(channels, size, text, produced, rng, integer=integer), total=True).values())


def between(
    channels: int, size: int, text: str, produced: int, rng: np.random.Generator, *, integer: bool
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a model of two convolutions with `text` between them, from t to r, and its inputs."""
    w, v = (
        rng.normal(size=(*shape, 1, 1)).astype(np.float32) / 5 for shape in ((channels, 8), (8, produced))
    )
    constants = {"w": w, "v": v, "scales": np.float32([1, 1, 2, 2])}
    ends = f"g (float[1,8,{size},{size}] x) => (float[1,8,A,B] y)"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> {ends} {{ t = Conv(x, w) {text} y = Conv(r, v) }}'
    )
    used = {
        name: array
        for name, array in constants.items()
        if name in ("w", "v") or re.search(rf"\b{name}\b", text)
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in used.items())
    feeds = {"x": rng.normal(size=(1, 8, size, size)).astype(np.float32)}
    if integer:
        with tempfile.TemporaryDirectory() as folder:
            onnx.save_model(model, f"{folder}/m.onnx")
            np.savez(f"{folder}/x.npz", **feeds)
            onnxq.quantize(
                f"{folder}/m.onnx",
                f"{folder}/x.npz",
                f"{folder}/q.onnx",
                effort=onnxq.Effort.FAST,
                skip_slow_nodes=False,
            )
            model = onnx.load(f"{folder}/q.onnx")
    return model, feeds


FUSED = {
    "Clip": "r = Clip(t, low, high)",
    "LeakyRelu": "r = LeakyRelu<alpha = 0.1>(t)",
    "Sigmoid": "r = Sigmoid(t)",
    "HardSigmoid": "r = HardSigmoid(t)",
    "HardSwish": "r = HardSwish(t)",
}
"""Activations fused into a float convolution if another one follows; a fused Relu costs nothing."""


def fused_rows(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Time that an activation adds to the float convolution before it."""
    rows = []
    for cin, cout, size, groups in (
        (64, 64, 56, 1),
        (16, 96, 112, 1),
        (96, 24, 56, 1),
        (256, 256, 14, 1),
        (128, 128, 28, 128),
        (32, 32, 112, 32),
    ):
        weight = (rng.normal(size=(cout, cin // groups, 1, 1)) / 8).astype(np.float32)
        feeds = {"x": rng.normal(size=(1, cin, size, size)).astype(np.float32)}
        texts = {"": "r = Identity(t)"} | FUSED
        models = {name: _activated(text, weight, feeds["x"].shape, groups) for name, text in texts.items()}
        rounds = [
            {name: sum(_kernels(profile(model, feeds, total=True))) for name, model in models.items()}
            for _ in range(2 * SESSIONS)
        ]
        times = least(rounds)
        work = Work(0, size**2 * cout, size**2 * cout)
        rows += [
            {
                "kind": f"fused {name}",
                "form": "float",
                "ns": PROFILING_NS + max(0.0, times[name] - times[""]),
                "work": list(work),
            }
            for name in FUSED
        ]
    return rows


def _activated(text: str, weight: np.ndarray, shape: tuple[int, ...], groups: int) -> onnx.ModelProto:
    sizes = ",".join(map(str, shape))
    ends = f"g (float[{sizes}] x) => (float[1,A,B,C] y)"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> {ends} '
        f"{{ t = Conv<group = {groups}>(x, w) {text} y = Conv(r, v) }}"
    )
    behind = np.full((8, weight.shape[0], 1, 1), 0.1, np.float32)
    constants = {"w": weight, "v": behind, "low": np.float32(0), "high": np.float32(6)}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()
    )
    return model


def _kernels(times: dict[str, float]) -> list[float]:
    return [ns for name, ns in times.items() if name not in AROUND]


def transpose_rows() -> list[dict[str, Any]]:
    """Return the changes of integers into the layout of the integer convolutions."""
    rows = []
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
    alike = ((3, 32), (16, 32), (48, 64), (96, 64), (64, 64), (128, 32), (192, 32), (32, 128), (96, 128))
    for channels, size in (*usual, *alike):
        ends = f"g (uint8[1,{channels},{size},{size}] x) => (uint8[1,A,B,C] y)"
        model = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["" : 18]> {ends} {{ y = Transpose<perm = [0, 2, 3, 1]>(x) }}'
        )
        feeds = {"x": np.zeros((1, channels, size, size), np.uint8)}
        nanoseconds = least(profile(model, feeds) for _ in range(SESSIONS))["Transpose"]
        rows.append(
            {
                "kind": "transpose",
                "form": "integer",
                "ns": nanoseconds,
                "work": list(transposed((1, channels, size, size))),
            }
        )
    return rows


def broadcast_rows(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Integer Add and Mul with the channels last, one operand with a value per channel."""
    rows = []
    for op in TWICE:
        for channels, places in (
            (16, 4096),
            (64, 3136),
            (96, 1024),
            (32, 784),
            (256, 196),
            (200, 192),
            (512, 49),
        ):
            ends = (
                f"g (uint8[{places},{channels}] x, uint8[1,{channels}] k) => (uint8[{places},{channels}] y)"
            )
            head = '<ir_version: 8, opset_import: ["" : 18, "com.microsoft" : 1]>'
            model = onnx.parser.parse_model(
                f"{head} {ends} {{ y = com.microsoft.QLinear{op}(x, s, z, k, s, z, s, z) }}"
            )
            for name, array in (("s", np.float32(0.02)), ("z", np.uint8(3))):
                model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
            feeds = {
                name: rng.integers(0, 255, (count, channels)).astype(np.uint8)
                for name, count in (("x", places), ("k", 1))
            }
            nanoseconds = least(profile(model, feeds) for _ in range(SESSIONS))[f"QLinear{op}"]
            work = Work(0, 2 * places * channels, places * channels, places=places)
            rows.append({"kind": op, "form": "integer", "ns": nanoseconds, "work": list(work)})
    return rows


CHAINED = {
    "Add": "{y} = Add({x}, {x})",
    "Mul": "{y} = Mul({x}, t0)",
    "Sigmoid": "{y} = Sigmoid({x})",
    "LeakyRelu": "{y} = LeakyRelu<alpha = 0.1>({x})",
    "HardSigmoid": "{y} = HardSigmoid({x})",
    "Relu": "n{y} = Neg({x}) {y} = Relu(n{y})",
}
"""Operators measured in a chain: a single one is too short to time."""
MORE = 8
"""Operators in a chain beside the first."""


def chain_rows(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Time per additional operator of a chain between two convolutions, in float and quantized."""
    rows = []
    for channels, size in (
        (64, 1),
        (256, 1),
        (64, 4),
        (128, 7),
        (64, 14),
        (64, 28),
        (48, 40),
        (32, 56),
        (64, 56),
    ):
        elements = channels * size**2
        for op, text in CHAINED.items():
            for integer, form in ((False, "float"), (True, "integer")):
                if op == "Relu" and integer:
                    continue
                added = _one_more(channels, size, text, rng, integer=integer)
                added -= (
                    _one_more(channels, size, "{y} = Neg({x})", rng, integer=False) if op == "Relu" else 0.0
                )
                work = Work(0, elements * (2 if op in TWICE else 1), elements)
                rows.append(
                    {"kind": op, "form": form, "ns": PROFILING_NS + max(added, 0.0), "work": list(work)}
                )
        clipped = PROFILING_NS + _one_more_clip(elements, rng)
        rows.append(
            {"kind": "Clip", "form": "integer", "ns": clipped, "work": list(Work(0, elements, elements))}
        )
    return rows


def _one_more(channels: int, size: int, text: str, rng: np.random.Generator, *, integer: bool) -> float:
    def made(count: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        chain = " ".join(text.format(x=f"t{i}", y=f"t{i + 1}") for i in range(count))
        return between(
            channels, size, f"t0 = Identity(t) {chain} r = Identity(t{count})", channels, rng, integer=integer
        )

    return _added_ns(made)


def _one_more_clip(elements: int, rng: np.random.Generator) -> float:
    """Return the time of one more Clip of integers, the form of an integer HardSigmoid."""

    def made(count: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        chain = " ".join(f"t{i + 1} = Clip(t{i}, low{i % 2}, high)" for i in range(count))
        ends = f"g (float[{elements}] x) => (float[{elements}] y)"
        text = f"{ends} {{ t0 = QuantizeLinear(x, s, z) {chain} y = DequantizeLinear(t{count}, s, z) }}"
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}')
        constants = {
            "s": np.float32(0.02),
            "z": np.uint8(128),
            "low0": np.uint8(10),
            "low1": np.uint8(20),
            "high": np.uint8(200),
        }
        model.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()
        )
        return model, {"x": rng.normal(size=elements).astype(np.float32)}

    return _added_ns(made)


def _added_ns(made: Callable[[int], tuple[onnx.ModelProto, dict[str, np.ndarray]]]) -> float:
    """Return the wall-clock nanoseconds that one more operator adds to the model that `made(count)` gives."""
    times = []
    for count in (1, 1 + MORE):
        model, feeds = made(count)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        seconds = timeit.repeat(lambda: session.run(None, feeds), number=20, repeat=15)  # noqa: B023
        times.append(min(seconds) / 20 * 1e9)
    return max(0.0, times[1] - times[0]) / MORE


KERNEL = re.compile(r"^(QLinear|MatMulIntegerToFloat|QGemm|Conv|FusedConv|MatMul|Gemm)")
AROUND = {
    "QuantizeLinear": "quantize",
    "DequantizeLinear": "dequantize",
    "ReorderInput": "reorder",
    "ReorderOutput": "reorder",
}


def measure(rows: list[dict[str, Any]], block: int) -> list[dict[str, Any]]:
    """Return the nanoseconds of each row's kernel and its conversions, the least of several sessions."""
    found = []
    rng = np.random.default_rng(1)
    for row in rows:
        kind, work = described(row, block)
        feeds = {name: rng.normal(size=shape).astype(np.float32) for name, shape in row["shapes"].items()}
        for integer in row.get("forms", (False, True)):
            model = single(row["op"], row["shapes"], {"w": row["w"]}, row["attributes"], integer=integer)
            times = least(profile(model, feeds) for _ in range(SESSIONS))
            form = "integer" if integer else "float"
            for name, nanoseconds in times.items():
                if name in AROUND:
                    elements = work.outputs if name in ("DequantizeLinear", "ReorderOutput") else work.inputs
                    found.append(
                        {
                            "kind": AROUND[name],
                            "form": form,
                            "ns": nanoseconds,
                            "work": list(Work(0, elements, 0)),
                        }
                    )
                elif KERNEL.match(name) or name == row["op"]:
                    own = kind.removeprefix(PLAIN) if integer else kind
                    found.append({"kind": own, "form": form, "ns": nanoseconds, "work": list(work)})
    return found


def least(times: Iterable[dict[str, float]]) -> dict[str, float]:
    """Return the shortest of several times of each kernel."""
    every = list(times)
    return {name: min(each.get(name, math.inf) for each in every) for name in every[0]}


def fit(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Fit non-negative costs to the features of each kind, by projected gradient on the relative error."""
    table = {}
    groups = defaultdict(list)
    for row in rows:
        groups[f"{row['form']} {row['kind']}"].append(row)
    for name, members in sorted(groups.items()):
        features = np.array([Work(*row["work"]).features() for row in members], float)
        times = np.array([row["ns"] for row in members], float)
        scaled = features / times[:, None]
        size = np.maximum(np.abs(scaled).max(axis=0), 1e-30)
        a, costs = scaled / size, np.zeros(features.shape[1])
        step = 1 / np.linalg.norm(a, 2) ** 2
        for _ in range(20000):
            costs = np.maximum(costs - step * (a.T @ (a @ costs - 1)), 0)
        costs /= size
        error = np.abs(features @ costs / times - 1)
        table[name] = [float(f"{cost:.3g}") for cost in costs]
        spread = f"median error {np.median(error):.0%}, 90 % {np.quantile(error, 0.9):.0%}"
        print(f"{name:28s} {len(members):4d} rows, {spread}  {table[name]}")
    return table


def everything(block: int) -> list[dict[str, Any]]:
    """Measure all rows of a table, always the same rows in the same order."""
    rng = np.random.default_rng(0)
    return (
        measure(all_rows(block), block)
        + between_rows(rng)
        + transpose_rows()
        + broadcast_rows(rng)
        + fused_rows(rng)
        + chain_rows(rng)
    )


def shortest(times: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return each row's least time; for differences of models the median, as their least is biased."""
    ranked = [sorted(same, key=lambda row: row["ns"]) for same in zip(*times, strict=True)]
    return [same[len(same) // 2 if _is_difference(same[0]["kind"]) else 0] for same in ranked]


def _is_difference(kind: str) -> bool:
    return kind in BETWEEN or kind.startswith("fused")


def write_table(table: dict[str, list[float]], path: Path) -> None:
    """Write a table as `onnxq.cost.kernel_times.read_table` reads it."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for name, costs in table.items():
            writer.writerow((*name.split(" ", 1), *map(repr, costs)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", type=Path, help="read the measured rows from this file, or write them to it"
    )
    parser.add_argument(
        "--times", type=int, default=3, help="number of passes: the CPU's clock changes over minutes"
    )
    parser.add_argument(
        "--block",
        type=int,
        choices=(8, 16),
        default=8,
        help="channels in a block of the CPU's float layout: 16 with AVX512",
    )
    parser.add_argument(
        "--csv", type=Path, help="write the table to this file, for example in onnxq/cost/tables/"
    )
    args = parser.parse_args()
    if args.rows and args.rows.exists():
        rows = json.loads(args.rows.read_text())
    else:
        rows = shortest([everything(args.block) for _ in range(args.times)])
        if args.rows:
            args.rows.write_text(json.dumps(rows))
    table = fit(rows)
    if args.csv:
        write_table(table, args.csv)


if __name__ == "__main__":
    main()
