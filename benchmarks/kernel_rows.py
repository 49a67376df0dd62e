"""Single operators, float and quantized, for `kernel_costs.py` to time: random sizes with fixed seeds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from onnxq.cost.model import Work, work_of
from onnxq.graph.macs import concrete_shapes

CONVS = 400
STEMS = 80
PLAIN_CONVS = 200
GROUPED_CONVS = 160
PRODUCTS = 100
MOST_MACS = 200e6


def all_rows(block: int) -> list[dict[str, Any]]:
    """Return all operators with weights; `block` is the channels per block of the CPU's float layout."""
    kinds = (conv_rows, product_rows, plain_rows, grouped_rows, stem_rows)
    return [row for seed, rows in enumerate(kinds) for row in rows(np.random.default_rng(seed), block)]


def single(
    op: str,
    shapes: dict[str, list[int]],
    constants: dict[str, np.ndarray],
    attributes: dict[str, Any],
    *,
    integer: bool,
) -> onnx.ModelProto:
    """Return a model of one operator over float inputs, with Q/DQ around it if `integer`."""
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
            inits |= {
                f"{name}_q": rng_int8(array.shape),
                f"{name}_s": scale,
                f"{name}_z": np.zeros(len(scale), np.int8),
            }
            nodes.append(
                helper.make_node(
                    "DequantizeLinear", [f"{name}_q", f"{name}_s", f"{name}_z"], [f"{name}_d"], axis=axis
                )
            )
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


def row_of(
    op: str, shape: list[int], weight: tuple[int, ...], attributes: dict[str, Any], rng: np.random.Generator
) -> dict[str, Any]:
    """Return an operator over an input of this shape and a random weight of this shape."""
    w = (rng.normal(size=weight) * 0.1).astype(np.float32)
    return {"op": op, "shapes": {"x": shape}, "w": w, "attributes": attributes}


def described(row: dict[str, Any], block: int) -> tuple[str, Work]:
    """Return the table's kind of a row's operator, and its sizes."""
    model = ir.from_proto(single(row["op"], row["shapes"], {"w": row["w"]}, row["attributes"], integer=False))
    found = work_of(model.graph[0], concrete_shapes(model, None), block)
    assert found is not None
    return found


def drawn(count: int, draw: Callable[[], dict[str, Any] | None], block: int) -> list[dict[str, Any]]:
    """Draw `count` rows small enough to time."""
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        row = draw()
        if row is not None and described(row, block)[1].macs <= MOST_MACS:
            rows.append(row)
    return rows


def conv_rows(rng: np.random.Generator, block: int) -> list[dict[str, Any]]:
    def draw() -> dict[str, Any]:
        size = int(rng.choice([3, 5, 7, 10, 14, 20, 28, 40, 56, 80, 112]))
        cin, cout = (
            int(c) for c in rng.choice([3, 4, 8, 8, 16, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384], 2)
        )
        kernel, stride = int(rng.choice([1, 1, 1, 3, 3, 3, 5, 7, 9])), int(rng.choice([1, 1, 2]))
        depthwise = kernel > 1 and rng.random() < 0.4
        weight = (cin, 1, kernel, kernel) if depthwise else (cout, cin, kernel, kernel)
        attributes = {"pads": [kernel // 2] * 4, "strides": [stride] * 2, "group": cin if depthwise else 1}
        return row_of("Conv", [1, cin, size, size], weight, attributes, rng)

    return drawn(CONVS, draw, block)


def stem_rows(rng: np.random.Generator, block: int) -> list[dict[str, Any]]:
    """Convolutions of few channels, like the first and last ones of models."""

    def draw() -> dict[str, Any]:
        size, kernel = int(rng.choice([28, 56, 112, 160, 224, 256])), int(rng.choice([3, 3, 5, 7, 9]))
        cin, cout, stride = (
            int(rng.choice([1, 2, 3, 3, 3, 4, 6])),
            int(rng.choice([3, 8, 16, 24, 32, 64])),
            int(rng.choice([1, 2])),
        )
        attributes = {"pads": [kernel // 2] * 4, "strides": [stride] * 2, "group": 1}
        return row_of("Conv", [1, cin, size, size], (cout, cin, kernel, kernel), attributes, rng)

    return drawn(STEMS, draw, block)


def plain_rows(rng: np.random.Generator, block: int) -> list[dict[str, Any]]:
    """Float convolutions outside the runtime's blocked layout: over one axis, or with partial blocks."""

    def draw() -> dict[str, Any]:
        axes = int(rng.choice([1, 1, 2]))
        size = int(
            rng.choice([4, 16, 50, 100, 300, 1000, 3000] if axes == 1 else [3, 5, 7, 10, 14, 20, 28, 40, 56])
        )
        cin, cout = (
            int(c)
            for c in rng.choice(
                [16, 24, 32, 64, 96, 128, 256, 512] if axes == 1 else [17, 18, 22, 30, 35, 58, 90, 122], 2
            )
        )
        kernel, stride = int(rng.choice([1, 1, 3, 3, 5, 7])), int(rng.choice([1, 1, 2]))
        depthwise = kernel > 1 and rng.random() < 0.4
        weight = (cin, 1, *[kernel] * axes) if depthwise else (cout, cin, *[kernel] * axes)
        attributes = {
            "pads": [kernel // 2] * 2 * axes,
            "strides": [stride] * axes,
            "group": cin if depthwise else 1,
        }
        return row_of("Conv", [1, cin, *[size] * axes], weight, attributes, rng) | {"forms": (False,)}

    return drawn(PLAIN_CONVS, draw, block)


def grouped_rows(rng: np.random.Generator, block: int) -> list[dict[str, Any]]:
    """Convolutions of several channels per group, or of several outputs per channel."""

    def draw() -> dict[str, Any] | None:
        size, kernel, stride = (
            int(rng.choice([4, 7, 14, 20, 28, 40, 56])),
            int(rng.choice([1, 3, 3, 5, 7])),
            int(rng.choice([1, 1, 2])),
        )
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
