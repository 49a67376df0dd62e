"""Time the runtime's float and integer kernels one by one, and fit the cost model of `onnxq/costs.py`.

    python benchmarks/kernel_costs.py [--chains] [--block 16] [--rows FILE] [--json FILE]

Run it as `python benchmarks/older_cpu.py python benchmarks/kernel_costs.py` for CPUs without VNNI. The tables are
`onnxq/kernel_times.py`.
Each row is one operator in a model of its own; the runtime's profiler gives the kernel's time alone.
The fit minimises the relative error of a sum of non-negative costs; printed is a table of nanoseconds.
"""

import argparse
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
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import onnxq
from onnxq.costs import PLAIN, PROFILING_NS, Work, work_of
from onnxq.macs import concrete_shapes

RUNS = 15
SESSIONS = 3
CONVS = 400
STEMS = 80
PLAIN_CONVS = 200
GROUPED_CONVS = 160
PRODUCTS = 100
MOST_MACS = 200e6


def profile(model: onnx.ModelProto, feeds: dict[str, np.ndarray], *, total: bool = False) -> dict[str, float]:
    """Median nanoseconds of a kernel of each type of a model, or of all of that type together; one thread."""
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
    times = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"]].append(event["dur"] * 1000)
    calls = {name: len(values) // RUNS if total else 1 for name, values in times.items()}
    typical = min if total else statistics.median  # small differences of totals need what is least disturbed
    return {name: typical(values[3:] or values) * calls[name] for name, values in times.items()}


def single(
    op: str, shapes: dict[str, list[int]], constants: dict[str, np.ndarray], attributes: dict[str, Any], *, integer: bool
) -> onnx.ModelProto:
    """A model of one operator over float inputs, with Q/DQ around it where it is to run on integers."""
    nodes, inits, inputs = [], {k: v for k, v in constants.items() if not integer}, []
    scalars = {"s": np.float32(0.02), "z": np.uint8(128)}
    if integer:
        inits |= scalars
        for name in shapes:
            nodes.append(helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}_q"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [f"{name}_d"]))
            inputs.append(f"{name}_d")
        for name, array in constants.items():
            axis = 1 if op in ("MatMul",) else 0
            scale = np.full(array.shape[axis], 0.01, np.float32)
            inits |= {f"{name}_q": rng_int8(array.shape), f"{name}_s": scale, f"{name}_z": np.zeros(len(scale), np.int8)}
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s", f"{name}_z"], [f"{name}_d"], axis=axis))
            inputs.append(f"{name}_d")
        nodes.append(helper.make_node(op, inputs, ["r"], **attributes))
        nodes.append(helper.make_node("QuantizeLinear", ["r", "s", "z"], ["r_q"]))
        nodes.append(helper.make_node("DequantizeLinear", ["r_q", "s", "z"], ["y"]))
    else:
        nodes.append(helper.make_node(op, [*shapes, *constants], ["y"], **attributes))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in inits.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rng_int8(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(-60, 60, shape).astype(np.int8)


def row_of(op: str, shape: list[int], weight: tuple[int, ...], attributes: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """An operator over an input of a shape and a weight of one."""
    w = (rng.normal(size=weight) * 0.1).astype(np.float32)
    return {"op": op, "shapes": {"x": shape}, "w": w, "attributes": attributes}


def described(row: dict[str, Any], block: int) -> tuple[str, Work]:
    """The table's kind of a row's operator, and its sizes."""
    model = ir.from_proto(single(row["op"], row["shapes"], {"w": row["w"]}, row["attributes"], integer=False))
    found = work_of(model.graph[0], concrete_shapes(model, None), block)
    assert found is not None
    return found


def drawn(count: int, draw: Callable[[], dict[str, Any] | None], block: int) -> list[dict[str, Any]]:
    """As many of the rows that are drawn as that, each small enough to be timed."""
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        row = draw()
        if row is not None and described(row, block)[1].macs <= MOST_MACS:
            rows.append(row)
    return rows


def conv_rows(rng: np.random.Generator, block: int) -> list[dict[str, Any]]:
    def draw() -> dict[str, Any]:
        size = int(rng.choice([3, 5, 7, 10, 14, 20, 28, 40, 56, 80, 112]))
        cin, cout = (int(c) for c in rng.choice([3, 4, 8, 8, 16, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384], 2))
        kernel, stride = int(rng.choice([1, 1, 1, 3, 3, 3, 5, 7, 9])), int(rng.choice([1, 1, 2]))
        depthwise = kernel > 1 and rng.random() < 0.4
        weight = (cin, 1, kernel, kernel) if depthwise else (cout, cin, kernel, kernel)
        attributes = {"pads": [kernel // 2] * 4, "strides": [stride] * 2, "group": cin if depthwise else 1}
        return row_of("Conv", [1, cin, size, size], weight, attributes, rng)

    return drawn(CONVS, draw, block)


def stem_rows(rng: np.random.Generator, block: int) -> list[dict[str, Any]]:
    """Convolutions of few channels, as models begin and end with."""

    def draw() -> dict[str, Any]:
        size, kernel = int(rng.choice([28, 56, 112, 160, 224, 256])), int(rng.choice([3, 3, 5, 7, 9]))
        cin, cout, stride = int(rng.choice([1, 2, 3, 3, 3, 4, 6])), int(rng.choice([3, 8, 16, 24, 32, 64])), int(rng.choice([1, 2]))
        attributes = {"pads": [kernel // 2] * 4, "strides": [stride] * 2, "group": 1}
        return row_of("Conv", [1, cin, size, size], (cout, cin, kernel, kernel), attributes, rng)

    return drawn(STEMS, draw, block)


def plain_rows(rng: np.random.Generator, block: int) -> list[dict[str, Any]]:
    """Convolutions that the runtime's blocked layout does not take, in float: over one axis, or of channels that fill no block."""

    def draw() -> dict[str, Any]:
        axes = int(rng.choice([1, 1, 2]))
        size = int(rng.choice([4, 16, 50, 100, 300, 1000, 3000] if axes == 1 else [3, 5, 7, 10, 14, 20, 28, 40, 56]))
        cin, cout = (int(c) for c in rng.choice([16, 24, 32, 64, 96, 128, 256, 512] if axes == 1 else [17, 18, 22, 30, 35, 58, 90, 122], 2))
        kernel, stride = int(rng.choice([1, 1, 3, 3, 5, 7])), int(rng.choice([1, 1, 2]))
        depthwise = kernel > 1 and rng.random() < 0.4
        weight = (cin, 1, *[kernel] * axes) if depthwise else (cout, cin, *[kernel] * axes)
        attributes = {"pads": [kernel // 2] * 2 * axes, "strides": [stride] * axes, "group": cin if depthwise else 1}
        return row_of("Conv", [1, cin, *[size] * axes], weight, attributes, rng) | {"forms": (False,)}

    return drawn(PLAIN_CONVS, draw, block)


def grouped_rows(rng: np.random.Generator, block: int) -> list[dict[str, Any]]:
    """Convolutions of several channels a group, or of several outputs for each channel."""

    def draw() -> dict[str, Any] | None:
        size, kernel, stride = int(rng.choice([4, 7, 14, 20, 28, 40, 56])), int(rng.choice([1, 3, 3, 5, 7])), int(rng.choice([1, 1, 2]))
        inside, more = int(rng.choice([1, 2, 4, 8, 16, 32, 64])), int(rng.choice([1, 1, 2, 4]))
        groups = int(rng.choice([2, 4, 8, 16, 32, 64]))
        cin, cout = inside * groups, inside * more * groups
        if inside * more == 1 or cin > 512 or cout > 1024:
            return None
        attributes = {"pads": [kernel // 2] * 4, "strides": [stride] * 2, "group": groups}
        return row_of("Conv", [1, cin, size, size], (cout, inside, kernel, kernel), attributes, rng)

    return drawn(GROUPED_CONVS, draw, block)


def product_rows(rng: np.random.Generator, block: int) -> list[dict[str, Any]]:
    def draw() -> dict[str, Any]:
        m = int(rng.choice([1, 4, 16, 64, 128, 256]))
        k, n = (int(c) for c in rng.choice([32, 64, 72, 128, 250, 256, 384, 768, 1536], 2))
        return row_of("MatMul", [1, m, k], (k, n), {}, rng)

    return drawn(PRODUCTS, draw, block)


BETWEEN = {
    "Add": "r = Add(t, t)",
    "Mul": "r = Mul(t, t)",
    "Concat": "r = Concat<axis=1>(t, t)",
    "Sigmoid": "r = Sigmoid(t)",
    "LeakyRelu": "r = LeakyRelu<alpha=0.1>(t)",
    "HardSigmoid": "r = HardSigmoid(t)",
    "AveragePool": "r = AveragePool<kernel_shape=[3,3], strides=[2,2]>(t)",
    "Resize": 'r = Resize<mode="nearest">(t, , scales)',
    "Relu": "s = Neg(t) r = Relu(s)",
}
"""Operators between two pointwise convolutions, whose layout they then have."""
TWICE = ("Add", "Mul")


def between_rows(rng: np.random.Generator) -> list[dict[str, Any]]:
    """What each operator adds to two convolutions, layout changes included, float and quantized by onnxq itself."""
    rows = []
    for channels, size in ((64, 28), (32, 56), (96, 28), (48, 40), (64, 56), (128, 20), (24, 80)):
        areas = {"AveragePool": ((size - 3) // 2 + 1) ** 2, "Resize": 4 * size**2}
        for integer, form in ((False, "float"), (True, "integer")):
            plain = whole(channels, size, "r = Identity(t)", channels, rng, integer=integer)
            negated = whole(channels, size, "r = Neg(t)", channels, rng, integer=False)
            for op, text in BETWEEN.items():
                if op == "Relu" and integer:
                    continue
                before = negated if op == "Relu" else plain
                produced = 2 * channels if op == "Concat" else channels
                added = whole(channels, size, text, produced, rng, integer=integer) - before
                written = areas.get(op, size**2) * produced
                work = Work(0, size**2 * channels * (2 if op in TWICE else 1), written)
                rows.append({"kind": op, "form": form, "ns": max(added, 1000.0), "work": list(work)})
    return rows


def whole(channels: int, size: int, text: str, produced: int, rng: np.random.Generator, *, integer: bool) -> float:
    """Nanoseconds of all kernels of two convolutions with `text` between them."""
    return sum(profile(*between(channels, size, text, produced, rng, integer=integer), total=True).values())


def between(
    channels: int, size: int, text: str, produced: int, rng: np.random.Generator, *, integer: bool
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of two convolutions with `text` between them, from t to r, and what it takes."""
    w, v = (rng.normal(size=(*shape, 1, 1)).astype(np.float32) / 5 for shape in ((channels, 8), (8, produced)))
    constants = {"w": w, "v": v, "scales": np.float32([1, 1, 2, 2])}
    ends = f"g (float[1,8,{size},{size}] x) => (float[1,8,A,B] y)"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {ends} {{ t = Conv(x, w) {text} y = Conv(r, v) }}')
    used = {name: array for name, array in constants.items() if name in ("w", "v") or re.search(rf"\b{name}\b", text)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in used.items())
    feeds = {"x": rng.normal(size=(1, 8, size, size)).astype(np.float32)}
    if integer:
        with tempfile.TemporaryDirectory() as folder:
            onnx.save_model(model, f"{folder}/m.onnx")
            np.savez(f"{folder}/x.npz", **feeds)
            onnxq.quantize(f"{folder}/m.onnx", f"{folder}/x.npz", f"{folder}/q.onnx", effort=onnxq.Effort.FAST, give_back=False)
            model = onnx.load(f"{folder}/q.onnx")
    return model, feeds


CHAINED = {
    "Add": "{y} = Add({x}, {x})",
    "Mul": "{y} = Mul({x}, t0)",
    "Sigmoid": "{y} = Sigmoid({x})",
    "LeakyRelu": "{y} = LeakyRelu<alpha = 0.1>({x})",
    "HardSigmoid": "{y} = HardSigmoid({x})",
    "Relu": "n{y} = Neg({x}) {y} = Relu(n{y})",
}
"""Operators of which some follow one another, for one is over too soon to be timed."""
MORE = 8
"""How many of them, beside the first."""


def chain_rows(rng: np.random.Generator) -> list[dict[str, Any]]:
    """What one more of an operator adds to a chain of them between two convolutions, by the clock, float and quantized by onnxq itself."""
    rows = []
    for channels, size in ((64, 1), (256, 1), (64, 4), (128, 7), (64, 14), (64, 28), (48, 40), (32, 56), (64, 56)):
        elements = channels * size**2
        for op, text in CHAINED.items():
            for integer, form in ((False, "float"), (True, "integer")):
                if op == "Relu" and integer:
                    continue
                added = _one_more(channels, size, text, rng, integer=integer)
                added -= _one_more(channels, size, "{y} = Neg({x})", rng, integer=False) if op == "Relu" else 0.0
                work = Work(0, elements * (2 if op in TWICE else 1), elements)
                rows.append({"kind": op, "form": form, "ns": PROFILING_NS + max(added, 0.0), "work": list(work)})
        clipped = PROFILING_NS + _one_more_clip(elements, rng)
        rows.append({"kind": "Clip", "form": "integer", "ns": clipped, "work": list(Work(0, elements, elements))})
    return rows


def _one_more(channels: int, size: int, text: str, rng: np.random.Generator, *, integer: bool) -> float:
    def made(count: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        chain = " ".join(text.format(x=f"t{i}", y=f"t{i + 1}") for i in range(count))
        return between(channels, size, f"t0 = Identity(t) {chain} r = Identity(t{count})", channels, rng, integer=integer)

    return _added_ns(made)


def _one_more_clip(elements: int, rng: np.random.Generator) -> float:
    """Of stored integers, as a HardSigmoid is written."""

    def made(count: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        chain = " ".join(f"t{i + 1} = Clip(t{i}, low{i % 2}, high)" for i in range(count))
        ends = f"g (float[{elements}] x) => (float[{elements}] y)"
        text = f"{ends} {{ t0 = QuantizeLinear(x, s, z) {chain} y = DequantizeLinear(t{count}, s, z) }}"
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}')
        constants = {"s": np.float32(0.02), "z": np.uint8(128), "low0": np.uint8(10), "low1": np.uint8(20), "high": np.uint8(200)}
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items())
        return model, {"x": rng.normal(size=elements).astype(np.float32)}

    return _added_ns(made)


def _added_ns(made: Callable[[int], tuple[onnx.ModelProto, dict[str, np.ndarray]]]) -> float:
    """What one more adds to the whole of a model of so many, by the clock."""
    times = []
    for count in (1, 1 + MORE):
        model, feeds = made(count)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        times.append(min(timeit.repeat(lambda: session.run(None, feeds), number=20, repeat=15)) / 20 * 1e9)  # noqa: B023
    return max(0.0, times[1] - times[0]) / MORE


KERNEL = re.compile(r"^(QLinear|MatMulIntegerToFloat|QGemm|Conv|FusedConv|MatMul|Gemm)")
AROUND = {
    "QuantizeLinear": "quantize",
    "DequantizeLinear": "dequantize",
    "ReorderInput": "reorder",
    "ReorderOutput": "reorder",
}


def measure(rows: list[dict[str, Any]], block: int) -> list[dict[str, Any]]:
    """Nanoseconds of each row's kernel, and of the conversions around it; the least of several sessions."""
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
                    found.append({"kind": AROUND[name], "form": form, "ns": nanoseconds, "work": list(Work(0, elements, 0))})
                elif KERNEL.match(name) or name == row["op"]:
                    own = kind.removeprefix(PLAIN) if integer else kind
                    found.append({"kind": own, "form": form, "ns": nanoseconds, "work": list(work)})
    return found


def least(times: Iterable[dict[str, float]]) -> dict[str, float]:
    """Of each kernel the shortest of several times."""
    every = list(times)
    return {name: min(each.get(name, math.inf) for each in every) for name in every[0]}


def fit(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Non-negative costs for the features of each kind, by projected gradient on the relative error."""
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
        print(f"{name:28s} {len(members):4d} rows, median error {np.median(error):.0%}, 90 % {np.quantile(error, 0.9):.0%}  {table[name]}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chains", action="store_true", help="fit elementwise operators alone, to chains of them instead of differences")
    parser.add_argument("--rows", type=Path, help="read the measured rows from this file, or write them to it")
    parser.add_argument(
        "--block", type=int, choices=(8, 16), default=8, help="channels in a block of the CPU's float layout: 16 with AVX512"
    )
    parser.add_argument("--json", type=Path, help="write the table to this file")
    args = parser.parse_args()
    if args.rows and args.rows.exists():
        rows = json.loads(args.rows.read_text())
    else:
        rng = np.random.default_rng(0)
        rows = (
            chain_rows(rng)
            if args.chains
            else measure(
                conv_rows(rng, args.block)
                + product_rows(rng, args.block)
                + stem_rows(np.random.default_rng(4), args.block)
                + plain_rows(np.random.default_rng(2), args.block)
                + grouped_rows(np.random.default_rng(3), args.block),
                args.block,
            )
            + between_rows(rng)
        )
        if args.rows:
            args.rows.write_text(json.dumps(rows))
    table = fit(rows)
    if args.json:
        args.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
