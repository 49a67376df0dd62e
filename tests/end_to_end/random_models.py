"""Random small models: all opsets, bodies, odd attributes, and inputs that calibration samples may leave out."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from onnxq.errors import ModelError
from onnxq.runtime.sessions import open_session
from onnxq.types import Array, Feeds

FLOAT = TensorProto.FLOAT


def _is_taken(opset: int) -> bool:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[1] x) => (float[1] y) {{ y = Neg(x) }}'
    )
    try:
        open_session(ir.from_proto(model))
    except ModelError:
        return False
    return True


OPSETS = [opset for opset in range(7, 27) if _is_taken(opset)]
"""Opsets that the runtime takes."""
Draw = Callable[[np.random.Generator], Array]


@dataclass
class Input:
    """An input, with its values in calibration samples and in others."""

    info: onnx.ValueInfoProto
    calibration: Draw
    fresh: Draw


@dataclass
class RandomModel:
    """Grows a random model: values of 32 features, or images; some parts run in a few samples only, or in none.

    shapes  of the float values that further nodes may use, by name
    """

    seed: int
    rng: np.random.Generator = field(init=False)
    opset: int = field(init=False)
    inputs: dict[str, Input] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    weights: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.opset = int(self.rng.choice(OPSETS))
        self.nodes: list[onnx.NodeProto] = []
        self.count = 0
        image = self.chance(0.5)
        shape = (1, 8, 6, 6) if image else ((3, 32) if self.chance(0.6) else (1, 3, 32))
        scale = float(self.rng.choice([1, 1, 1, 0.1, 20]))
        offset = float(self.rng.choice([0, 0, 0, 1, -2])) * scale
        self.add_input("x", shape, lambda rng: normal(rng, shape) * scale + offset)

    # --- random choices

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def one(self, *choices):
        return choices[int(self.rng.integers(len(choices)))]

    def pick(self, shape: tuple[int, ...] | None = None) -> str:
        names = [name for name, each in self.shapes.items() if shape is None or each == shape]
        return self.one(*names[-4:])

    # --- parts of the graph

    def fresh(self, base: str = "v") -> str:
        self.count += 1
        return f"{base}{self.count}"

    def add_input(self, name: str, shape: tuple[int, ...], calibration: Draw, fresh: Draw | None = None):
        info = helper.make_tensor_value_info(name, FLOAT, shape)
        self.inputs[name] = Input(info, calibration, fresh or calibration)
        self.shapes[name] = shape

    def weight(self, *shape: int, scale: float | None = None) -> str:
        same = [n for n, a in self.weights.items() if a.shape == shape and a.dtype == np.float32]
        if same and len(shape) > 1 and self.chance(0.15):
            return self.one(*same)
        fan_in = np.prod(shape[1:]) if len(shape) > 2 else shape[0]
        array = normal(self.rng, shape) * np.float32(scale or 1 / np.sqrt(fan_in))
        if len(shape) > 1 and self.chance(0.1):
            array[int(self.rng.integers(shape[0]))] *= 6  # an outlier channel
        return self.constant(array)

    def bias(self, size: int) -> str:
        return self.constant(normal(self.rng, (size,)) * np.float32(0.3))

    def constant(self, array: Array) -> str:
        name = self.fresh("c")
        self.weights[name] = np.asarray(array)
        return name

    def ints(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def emit(self, op: str, inputs: list[str], shape: tuple[int, ...], count: int = 1, **attributes) -> str:
        names = [self.fresh() for _ in range(count)]
        self.nodes.append(
            helper.make_node(
                op, inputs, names, name=self.fresh("node") if self.chance(0.8) else "", **attributes
            )
        )
        self.shapes[names[0]] = tuple(int(size) for size in shape)
        return names[0]

    # --- steps

    def step(self, x: str | None = None) -> str:
        """Add a node, or a few, that use a value; return the new value."""
        x = x or self.pick()
        shape = self.shapes[x]
        steps = [
            self.activation, self.activation, self.clip, self.binary, self.binary_constant, self.transpose,
            self.view, self.slice, self.reduce, self.softmax, self.normalization, self.concat, self.split,
        ]  # fmt: skip
        steps += [self.conv] * 6 + [self.pool] * 2 + [self.resize] if len(shape) == 4 else []
        steps += [self.matmul] * 7 if len(shape) in (2, 3) else []
        return self.one(*steps)(x, shape)

    def conv(self, x, shape):
        if min(shape[2:]) < 3:
            return self.activation(x, shape)
        out, group, k = self.one(4, 8), 1, self.one(1, 2, 3)
        if self.chance(0.2) and shape[1] % 2 == 0:
            group, out = self.one(2, shape[1]), shape[1]
        stride, dilation = self.one(1, 1, 1, 2), self.one(1, 1, 2) if k > 1 else 1
        pads = [int(p) for p in self.rng.integers(0, k, 4)]
        extent = (k - 1) * dilation + 1
        size = [(shape[2 + i] + pads[i] + pads[2 + i] - extent) // stride + 1 for i in (0, 1)]
        if min(size) < 1:
            return self.activation(x, shape)
        attributes = {"pads": pads, "strides": [stride] * 2, "dilations": [dilation] * 2, "group": group}
        if self.chance(0.15) and dilation == 1:
            attributes.pop("pads")
            attributes["auto_pad"] = self.one("SAME_UPPER", "SAME_LOWER")
            size = [-(-n // stride) for n in shape[2:]]
        inputs = [x, self.weight(out, shape[1] // group, k, k)]
        inputs += [self.bias(out)] if self.chance(0.5) else []
        result = self.emit("Conv", inputs, (shape[0], out, *size), **attributes)
        return self.activation(result, self.shapes[result]) if self.chance(0.5) else result

    def matmul(self, x, shape):
        size, out = shape[-1], self.one(32, 32, 40)
        if len(shape) == 2 and self.chance(0.5):
            transposed = int(self.chance(0.5))
            inputs = [x, self.weight(*((out, size) if transposed else (size, out)), scale=size**-0.5)]
            biases = (lambda: self.bias(out), lambda: self.constant(normal(self.rng, (1,))))
            inputs += [self.one(*biases)()] if self.chance(0.6) else []
            factors = {"alpha": self.one(1.0, 1.0, 0.5), "beta": self.one(1.0, 2.0)}
            if len(inputs) < 3 and self.opset < 11:
                inputs.append(self.bias(out))
            result = self.emit("Gemm", inputs, (shape[0], out), transB=transposed, **factors)
        else:
            result = self.emit("MatMul", [x, self.weight(size, out)], (*shape[:-1], out))
            if self.chance(0.5):
                operands = [result, self.bias(out)]
                result = self.emit("Add", operands[:: self.one(1, -1)], self.shapes[result])
        return self.activation(result, self.shapes[result]) if self.chance(0.4) else result

    def activation(self, x, shape):
        op, attributes = self.one(
            ("Relu", {}), ("Relu", {}), ("Sigmoid", {}), ("Tanh", {}),
            ("LeakyRelu", {"alpha": self.one(0.01, 0.2, 1.5)}), ("Elu", {}), ("Softplus", {}),
            ("HardSigmoid", {"alpha": self.one(0.2, 1 / 6), "beta": self.one(0.5, 0.3)}), ("Selu", {}),
        )  # fmt: skip
        result = self.emit(op, [x], shape, **attributes)
        gated = op in ("Sigmoid", "HardSigmoid") and self.chance(0.5)
        return self.emit("Mul", [x, result], shape) if gated else result

    def clip(self, x, shape):
        low, high = self.one((0.0, 6.0), (0.0, 1.0), (-1.0, 1.0), (0.2, 2.0), (-3.0, -0.1), (-0.4, 3.0))
        if self.opset < 11:
            return self.emit("Clip", [x], shape, min=low, max=high)
        ends = [self.constant(np.float32(end)) for end in (low, high)]
        if self.opset >= 13 and self.chance(0.3):
            ends[int(self.rng.integers(2))] = ""
        return self.emit("Clip", [x, *ends], shape)

    def binary(self, x, shape):
        op = self.one("Add", "Add", "Mul", "Sub", "Max", "Min")
        if op in ("Max", "Min") and self.opset < 8:
            op = "Add"
        return self.emit(op, [x, self.pick(shape)], shape)

    def binary_constant(self, x, shape):
        other = self.one((), (1,), (shape[-1],), (shape[1], *[1] * (len(shape) - 2)), shape)
        array = normal(self.rng, other) + np.float32(self.one(0.0, 1.0))
        op = self.one("Add", "Mul", "Sub", "Mul", "Add", "Div")
        if op == "Div":
            array = np.abs(array) + np.float32(0.5)
        operands = [x, self.constant(array)]
        return self.emit(op, operands if op in ("Div", "Sub") else operands[:: self.one(1, -1)], shape)

    def transpose(self, x, shape):
        order = [0, *(int(i) + 1 for i in self.rng.permutation(len(shape) - 1))]
        return self.emit("Transpose", [x], tuple(shape[i] for i in order), perm=order)

    def view(self, x, shape):
        kind = self.one("Flatten", "Reshape", "Identity", "Dropout", "Tile", "Gather", "Pad")
        if kind == "Flatten" and len(shape) > 2 and np.prod(shape) <= 400:
            return self.emit("Flatten", [x], (shape[0], int(np.prod(shape[1:]))), axis=1)
        if kind == "Reshape":
            return self.emit(
                "Reshape", [x, self.ints(0, -1, shape[-1])], (shape[0], int(np.prod(shape[1:-1])), shape[-1])
            )
        if kind == "Tile" and np.prod(shape) < 300:
            repeats = [1] * (len(shape) - 1) + [2]
            return self.emit("Tile", [x, self.ints(*repeats)], (*shape[:-1], 2 * shape[-1]))
        if kind == "Gather":
            indices = self.ints(*self.rng.integers(0, shape[-1], shape[-1]))
            return self.emit("Gather", [x, indices], shape, axis=len(shape) - 1)
        if kind == "Pad" and len(shape) == 4:
            pads, value = [0, 0, 1, 0, 0, 0, 0, 2], self.one(0.0, 0.0, 0.5)
            result = (*shape[:2], shape[2] + 1, shape[3] + 2)
            if self.opset < 11:
                return self.emit("Pad", [x], result, pads=pads, value=value, mode="constant")
            mode = self.one("constant", "reflect", "edge") if min(shape[2:]) > 2 else "constant"
            return self.emit(
                "Pad", [x, self.ints(*pads), self.constant(np.float32(value))], result, mode=mode
            )
        return self.emit(kind if kind == "Dropout" else "Identity", [x], shape)

    def slice(self, x, shape):
        axis, size = len(shape) - 1, shape[-1]
        if size < 8:
            return self.activation(x, shape)
        if self.opset < 10:
            return self.emit("Slice", [x], (*shape[:-1], size - 3), starts=[1], ends=[size - 2], axes=[axis])
        if self.chance(0.3):
            ends = self.ints(-1), self.ints(-size - 1), self.ints(axis), self.ints(-1)
            return self.emit("Slice", [x, *ends], shape)
        ends = self.ints(0), self.ints(2**31), self.ints(-1), self.ints(2)
        return self.emit("Slice", [x, *ends], (*shape[:-1], -(-size // 2)))

    def split(self, x, shape):
        if shape[1] % 2 or shape[1] < 4:
            return self.activation(x, shape)
        half = (shape[0], shape[1] // 2, *shape[2:])
        attributes = {"axis": 1} | ({"split": [half[1]] * 2} if self.opset < 13 else {})
        parts = [self.ints(half[1], half[1])] if self.opset >= 13 else []
        name = self.emit("Split", [x, *parts], half, count=2, **attributes)
        return (
            self.emit(self.one("Add", "Mul"), list(self.nodes[-1].output), half) if self.chance(0.7) else name
        )

    def reduce(self, x, shape):
        if len(shape) == 4 and self.chance(0.5):
            return self.emit(self.one("GlobalAveragePool", "GlobalMaxPool"), [x], (*shape[:2], 1, 1))
        op, axis = self.one("ReduceMean", "ReduceMax"), len(shape) - 1
        result = (*shape[:-1], 1)
        if self.opset >= 18:
            return self.emit(op, [x, self.ints(axis)], result, keepdims=1)
        return self.emit(op, [x], result, axes=[axis], keepdims=1)

    def softmax(self, x, shape):
        return self.emit(self.one("Softmax", "Softmax", "LogSoftmax"), [x], shape, axis=len(shape) - 1)

    def normalization(self, x, shape):
        channels = shape[1]
        if len(shape) == 4:
            values = [normal(self.rng, (channels,)) for _ in range(3)]
            spread = np.abs(normal(self.rng, (channels,))) + np.float32(0.3)
            constants = [self.constant(each) for each in (*values, spread)]
            if self.chance(0.6) or min(shape[2:]) < 2:
                return self.emit("BatchNormalization", [x, *constants], shape)
            return self.emit("InstanceNormalization", [x, *constants[:2]], shape)
        if self.opset < 17 or shape[-1] < 8:
            return self.activation(x, shape)
        constants = [self.constant(normal(self.rng, (shape[-1],))) for _ in range(2)]
        return self.emit("LayerNormalization", [x, *constants], shape, axis=-1)

    def concat(self, x, shape):
        if np.prod(shape) > 600:
            return self.activation(x, shape)
        result = (*shape[:-1], 2 * shape[-1])
        return self.emit(
            "Concat", [x, self.pick(shape)], result, axis=self.one(len(shape) - 1, len(shape) - 1)
        )

    def pool(self, x, shape):
        k, stride = self.one(2, 3), self.one(1, 2)
        if min(shape[2:]) < k:
            return self.activation(x, shape)
        pads = [int(p) for p in self.rng.integers(0, 2, 4)] if self.chance(0.4) else [0] * 4
        attributes = {"kernel_shape": [k, k], "strides": [stride] * 2, "pads": pads}
        up = self.opset >= 10 and self.chance(0.3)
        if up:
            attributes["ceil_mode"] = 1
        op = self.one("MaxPool", "AveragePool", "AveragePool")
        if op == "AveragePool" and self.chance(0.4):
            attributes["count_include_pad"] = 1
        size = []
        for i in (0, 1):
            padded = shape[2 + i] + pads[i] + pads[2 + i] - k
            n = (-(-padded // stride) if up else padded // stride) + 1
            if up and (n - 1) * stride >= shape[2 + i] + pads[i]:
                n -= 1  # no window starts in the padding behind
            size.append(n)
        return self.emit(op, [x], (*shape[:2], *size), **attributes)

    def resize(self, x, shape):
        if np.prod(shape) > 600 or self.opset < 9:
            return self.activation(x, shape)
        result, scales = (*shape[:2], 2 * shape[2], 2 * shape[3]), self.constant(np.float32([1, 1, 2, 2]))
        mode = self.one("nearest", "nearest", "linear")
        if self.opset == 9:
            return self.emit("Upsample", [x, scales], result, mode=mode)
        if self.opset == 10:
            return self.emit("Resize", [x, scales], result, mode=mode)
        attributes = {"coordinate_transformation_mode": self.one("asymmetric", "half_pixel")}
        if mode == "nearest":
            attributes["nearest_mode"] = self.one("floor", "round_prefer_floor")
        region = "" if self.opset >= 13 else self.constant(np.zeros(0, np.float32))
        return self.emit("Resize", [x, region, scales], result, mode=mode, **attributes)

    # --- parts that samples may leave out

    def partly_seen(self) -> None:
        self.one(self.zero_operand, self.branch, self.branch, self.loop, self.loop, self.head)()

    def zero_operand(self) -> None:
        x = self.pick()
        shape, name = self.shapes[x], self.fresh("k")
        unseen = self.chance(0.6)
        zero = np.zeros(shape, np.float32)
        self.add_input(
            name, shape, lambda rng: zero if unseen else normal(rng, shape), lambda rng: normal(rng, shape)
        )
        operands = [x, name]
        if self.chance(0.25):
            self.emit("Concat", operands, (*shape[:-1], 2 * shape[-1]), axis=len(shape) - 1)
        else:
            self.emit(self.one("Add", "Sub", "Mul"), operands, shape)

    def body(self, x: str, shape: tuple[int, ...]) -> tuple[list[onnx.NodeProto], str]:
        """Return nodes that map a value to another of its shape, and the name of that."""
        outside, known = self.nodes, dict(self.shapes)
        self.nodes = []
        value = x
        for _ in range(int(self.rng.integers(0, 3))):
            value = self.activation(value, shape) if self.chance(0.5) else self.binary_constant(value, shape)
            if self.shapes[value] != shape:
                value = x
        if len(shape) == 4:
            weight = self.weight(shape[1], shape[1], 3, 3)
            value = self.emit("Conv", [value, weight], shape, pads=[1] * 4)
        else:
            value = self.emit("MatMul", [value, self.weight(shape[-1], shape[-1])], shape)
        value = self.activation(value, shape) if self.chance(0.7) else value
        if self.chance(0.3):
            value = self.emit("Mul", [value, self.constant(np.float32(self.one(0.3, 2.0)))], shape)
        nodes, self.nodes, self.shapes = self.nodes, outside, known
        return nodes, value

    def branch(self) -> None:
        x = self.pick()
        shape, use = self.shapes[x], self.fresh("use")
        always = self.one(True, False, None)
        either = lambda rng: np.array(bool(rng.random() < 0.5))  # noqa: E731
        fixed = lambda _: np.array(always)  # noqa: E731
        info = helper.make_tensor_value_info(use, TensorProto.BOOL, [])
        self.inputs[use] = Input(info, either if always is None else fixed, either)
        graphs = []
        for name in ("then", "else"):
            nodes, value = self.body(x, shape)
            graphs.append(
                helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(value, FLOAT, shape)])
            )
        self.emit("If", [use], shape, then_branch=graphs[0], else_branch=graphs[1])

    def loop(self) -> None:
        x = self.pick()
        shape, count = self.shapes[x], self.fresh("n")
        always = self.one(0, 1, 3, None, None)
        some = lambda rng: np.array(rng.integers(0, 4), np.int64)  # noqa: E731
        fixed = lambda _: np.array(always, np.int64)  # noqa: E731
        info = helper.make_tensor_value_info(count, TensorProto.INT64, [])
        self.inputs[count] = Input(info, some if always is None else fixed, some)
        number, given, state, goes_on = (self.fresh(base) for base in ("i", "go", "s", "on"))
        nodes, value = self.body(state, shape)
        body = helper.make_graph(
            [*nodes, helper.make_node("Identity", [given], [goes_on])],
            "body",
            [
                helper.make_tensor_value_info(number, TensorProto.INT64, []),
                helper.make_tensor_value_info(given, TensorProto.BOOL, []),
                helper.make_tensor_value_info(state, FLOAT, shape),
            ],
            [
                helper.make_tensor_value_info(goes_on, TensorProto.BOOL, []),
                helper.make_tensor_value_info(value, FLOAT, shape),
            ],
        )
        self.emit("Loop", [count, self.constant(np.array(True)), x], shape, body=body)

    def head(self) -> None:
        """Add products over rows of which there may be none."""
        name = self.fresh("rows")
        rows = (f"of_{name}", 32)
        most = 1 if self.chance(0.6) else 4
        self.add_input(
            name,
            rows,
            lambda rng: normal(rng, (int(rng.integers(most)), 32)),
            lambda rng: normal(rng, (int(rng.integers(1, 5)), 32)),
        )
        self.shapes.pop(name)
        value = name
        for op in (self.one("Relu", "Tanh"), self.one("Sigmoid", "Identity")):
            product, value_ = self.fresh(), self.fresh()
            self.nodes.append(helper.make_node("MatMul", [value, self.weight(32, 32)], [product]))
            self.nodes.append(helper.make_node(op, [product], [value_]))
            value = value_
        self.outputs[value] = (None, 32)

    # --- the whole

    def grown(self) -> "RandomModel":
        for _ in range(int(self.rng.integers(2, 9))):
            if self.chance(0.15) and len(self.inputs) < 4:
                self.partly_seen()
            else:
                self.step()
        used = {name for node in self.nodes for name in node.input}
        used |= {
            name
            for node in self.nodes
            for a in node.attribute
            if a.HasField("g")
            for n in a.g.node
            for name in n.input
        }
        for name, shape in self.shapes.items():
            made = name not in self.inputs
            if made and (name not in used or self.chance(0.05)):
                self.outputs[name] = shape
        return self

    def model(self) -> onnx.ModelProto:
        outputs = [
            helper.make_tensor_value_info(name, FLOAT, list(shape)) for name, shape in self.outputs.items()
        ]
        infos = [each.info for each in self.inputs.values()]
        constants = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        if self.opset < 9:  # IR 3: initializers are inputs
            infos += [helper.make_tensor_value_info(c.name, c.data_type, list(c.dims)) for c in constants]
        graph = helper.make_graph(self.nodes, "random", infos, outputs, constants)
        version = 3 if self.opset < 9 else 8 if self.opset < 21 else 10
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=version
        )

    def samples(self, count: int, *, fresh: bool) -> list[Feeds]:
        return [
            {
                name: np.asarray((each.fresh if fresh else each.calibration)(self.rng))
                for name, each in self.inputs.items()
            }
            for _ in range(count)
        ]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw normal values without far tails, which few samples do not show."""
    return rng.normal(size=shape).clip(-2.5, 2.5).astype(np.float32)
