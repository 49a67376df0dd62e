"""Random graphs over the operator table: the file loads, runs, and stays within quantization error of float.

A graph is a chain with side branches: each step takes one or two earlier values of the same shape.
Shapes, attributes, shared weights, fan-outs, clipping and extra outputs are random.
"""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxq.quantization.weights import WeightOptions
from onnxq.transforms.registry import with_techniques
from tests.conftest import Quantized

FLOAT = TensorProto.FLOAT


class Graph:
    """Grows a random graph; `values` maps each value's name to its shape."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.spatial = self.rng.random() < 0.7
        first = (
            (1, int(self.rng.integers(1, 9)), 8, 8)
            if self.spatial
            else tuple(self.rng.integers(2, 9, int(self.rng.integers(2, 4))))
        )
        self.values: dict[str, tuple[int, ...]] = {"x": tuple(int(n) for n in first)}

    def pick(self, shape: tuple[int, ...] | None = None) -> str:
        names = [name for name, s in self.values.items() if shape is None or s == shape]
        return names[int(self.rng.integers(max(0, len(names) - 4), len(names)))]

    def constant(self, shape: tuple[int, ...], like: str = "w") -> str:
        for name, array in self.weights.items():
            if name.startswith(like) and array.shape == shape and self.rng.random() < 0.3:
                return name
        name = f"{like}{len(self.weights)}"
        spread = 1 / np.sqrt(max(1, np.prod(shape[1:])))
        self.weights[name] = (self.rng.normal(size=shape) * spread).astype(np.float32)
        return name

    def emit(self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes: object) -> None:
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        self.values[output] = tuple(int(n) for n in shape)

    def int64(self, *numbers: int) -> str:
        name = f"i{len(self.weights)}"
        self.weights[name] = np.array(numbers, np.int64)
        return name

    def step(self) -> None:
        source = self.pick()
        shape = self.values[source]
        unary = [self.relu, self.clip, self.leaky, self.sigmoid, self.hard, self.gate, self.tanh]
        unary += [self.binary, self.binary_constant, self.transpose]
        own = (
            [self.conv, self.conv, self.pool, self.concat, self.depthwise]
            if len(shape) == 4
            else [self.matmul, self.matmul, self.softmax]
        )
        choices = unary + own * 2
        choices[int(self.rng.integers(len(choices)))](source, shape)

    def conv(self, x, shape):
        out, k = int(self.rng.integers(1, 9)), int(self.rng.choice([1, 3]))
        inputs = [x, self.constant((out, shape[1], k, k))]
        if self.rng.random() < 0.5:
            inputs.append(self.constant((out,), "b"))
        self.emit("Conv", inputs, (1, out, *shape[2:]), pads=[k // 2] * 4)

    def depthwise(self, x, shape):
        self.emit("Conv", [x, self.constant((shape[1], 1, 3, 3))], shape, pads=[1] * 4, group=shape[1])

    def matmul(self, x, shape):
        out = int(self.rng.integers(1, 9))
        result = (*shape[:-1], out)
        if len(shape) == 2 and self.rng.random() < 0.6:
            transposed = int(self.rng.random() < 0.5)
            weight = self.constant((out, shape[1]) if transposed else (shape[1], out))
            bias = (
                [self.constant([(out,), (1, out), (1,), (shape[0], out)][int(self.rng.integers(4))], "b")]
                if self.rng.random() < 0.7
                else []
            )
            factors = {"alpha": float(self.rng.choice([1, 0.5])), "beta": float(self.rng.choice([1, 2]))}
            self.emit("Gemm", [x, weight, *bias], result, transB=transposed, **factors)
            return
        self.emit("MatMul", [x, self.constant((shape[-1], out))], result)
        if self.rng.random() < 0.5:
            self.emit("Add", [f"v{len(self.nodes) - 1}", self.constant((out,), "b")], result)

    def relu(self, x, shape):
        self.emit("Relu", [x], shape)

    def clip(self, x, shape):
        low, high = ((0, 1), (-1, 1), (0.5, 2), (-0.3, 3))[int(self.rng.integers(4))]
        for name, value in ((f"lo{len(self.nodes)}", low), (f"hi{len(self.nodes)}", high)):
            self.weights[name] = np.float32(value)
        self.emit("Clip", [x, f"lo{len(self.nodes)}", f"hi{len(self.nodes)}"], shape)

    def leaky(self, x, shape):
        self.emit("LeakyRelu", [x], shape, alpha=0.1)

    def sigmoid(self, x, shape):
        self.emit("Sigmoid", [x], shape)

    def hard(self, x, shape):
        self.emit(str(self.rng.choice(["HardSigmoid", "HardSwish"])), [x], shape)

    def gate(self, x, shape):
        self.emit(str(self.rng.choice(["HardSigmoid", "Sigmoid"])), [x], shape)
        self.emit("Mul", [x, f"v{len(self.nodes) - 1}"], shape)

    def tanh(self, x, shape):
        self.emit("Tanh", [x], shape)

    def softmax(self, x, shape):
        self.emit("Softmax", [x], shape)

    def binary(self, x, shape):
        self.emit(str(self.rng.choice(["Add", "Mul"])), [x, self.pick(shape)], shape)

    def binary_constant(self, x, shape):
        self.emit(str(self.rng.choice(["Add", "Mul"])), [x, self.constant((shape[-1],), "c")], shape)

    def transpose(self, x, shape):
        order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
        self.emit("Transpose", [x], tuple(shape[i] for i in order), perm=order)

    def pool(self, x, shape):
        if min(shape[2:]) < 2:
            return
        op = str(self.rng.choice(["MaxPool", "AveragePool"]))
        self.emit(op, [x], (*shape[:2], shape[2] // 2, shape[3] // 2), kernel_shape=[2, 2], strides=[2, 2])

    def concat(self, x, shape):
        other = self.pick(shape)
        self.emit("Concat", [x, other], (1, 2 * shape[1], *shape[2:]), axis=1)

    def model(self) -> onnx.ModelProto:
        used = {name for node in self.nodes for name in node.input}
        leaves = [node.output[0] for node in self.nodes if node.output[0] not in used]
        extra = [
            name for name in self.values if name != "x" and name not in leaves and self.rng.random() < 0.1
        ]
        outputs = [helper.make_tensor_value_info(name, FLOAT, self.values[name]) for name in leaves + extra]
        graph = helper.make_graph(
            self.nodes, "fuzz", [helper.make_tensor_value_info("x", FLOAT, self.values["x"])], outputs,
            [numpy_helper.from_array(np.asarray(array), name) for name, array in self.weights.items()],
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def check(seed: int) -> bool:
    """Quantize a seed's graph and compare it with float; return False if it has nothing to quantize."""
    graph = Graph(seed)
    for _ in range(int(graph.rng.integers(2, 14))):
        graph.step()
    if not graph.nodes:
        return False
    model = graph.model()
    feeds = [{"x": graph.rng.normal(size=graph.values["x"]).astype(np.float32)} for _ in range(4)]
    techniques = bool(graph.rng.random() < 0.5)
    options = WeightOptions(per_channel=bool(graph.rng.random() < 0.8))
    options = with_techniques(options, ("gptq", "bias-correction") if techniques else ())
    quantized = Quantized(model, feeds, weights=options, qoperator=bool(graph.rng.random() < 0.4))
    if not quantized.plan.nodes:
        return False
    error, difference = quantized.errors()
    # each operator may add an error of one or two of its 255 steps; per-tensor weights are coarser
    depth = len(graph.nodes)
    assert error < 0.02 * depth + 0.06, f"seed {seed}: {error:.3f} from float"
    assert difference < 0.01 * depth + 0.01, f"seed {seed}: {difference:.3f} between optimized and as written"
    return True


@pytest.mark.parametrize("block", range(4))
def test_random_graphs(block):
    assert sum(check(1000 * block + i) for i in range(40)) > 10


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_many_random_graphs(block):
    assert sum(check(100_000 + 1000 * block + i) for i in range(100)) > 30
