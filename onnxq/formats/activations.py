"""Float activations with slow kernels, as operators with fast ones.

    PRelu(x, a), a <= 1             -> Max(x, a * x)
    PRelu(x, a), a >= 1             -> Min(x, a * x)
    PRelu(x, a), others             -> Relu(x) + a * Clip(x, , 0)
    Mish(x), x * Tanh(Softplus(x))  -> x * n / (n + 2), n = e * (e + 2), e = Exp(Clip(x, , 20))

The runtime's PRelu (1.32) takes 3.9 ns for each element, Max and Mul together 0.4, all four operators of the
third form 0.7. Softplus takes 9 ns, the operators for it together 1. PRelu keeps every bit; the other form is
exact but for rounding, because tanh(log(1 + e)) = n / (n + 2).
"""

import math

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import (
    Names,
    add_initializer,
    add_node,
    constant,
    graph_of,
    is_float,
    nodes_of,
    only_use,
    take_output,
    tidy,
)

LEAST_ELEMENTS = 1000
"""Elements of one sample from which the faster kernels make up for the calls of more operators."""
LARGEST = 20.0
"""Value above which n / (n + 2) is 1 in float32."""


def replace_slow_activations(model: ir.Model) -> bool:
    """Replace PRelu and Mish on large float tensors, in place; return whether there was any."""
    names, modified = Names(model), False
    for node in list(nodes_of(model)):
        if node.graph is None or node.domain not in ("", "ai.onnx") or not is_float(node.outputs[0]):
            continue
        x = node.inputs[0]
        if node.op_type not in ("PRelu", "Mish", "Softplus") or x is None or _is_small(x):
            continue
        if node.op_type == "PRelu":
            slope = constant(node.inputs[1])
            if slope is None:
                continue
            _prelu(_Writer(model, node, names), x, slope)
        else:
            last = node if node.op_type == "Mish" else _end_of_mish(node, x)
            if last is None:
                continue
            _mish(_Writer(model, last, names), x)
        modified = True
    return modified and (tidy(model) or True)


def _is_small(x: ir.Value) -> bool:
    """Whether one sample is known to have few elements."""
    if x.shape is None:
        return False
    first = [1 if isinstance(size, ir.SymbolicDim) else size for size in x.shape[:1]]
    sizes = [size for size in (*first, *x.shape[1:]) if isinstance(size, int)]
    return len(sizes) == len(x.shape) and math.prod(sizes) < LEAST_ELEMENTS


def _end_of_mish(softplus: ir.Node, x: ir.Value) -> ir.Node | None:
    """Return the last node of x * Tanh(Softplus(x))."""
    tanh = only_use(softplus.outputs[0])
    last = only_use(tanh.outputs[0]) if tanh is not None and tanh.op_type == "Tanh" else None
    return last if last is not None and last.op_type == "Mul" and x in last.inputs else None


class _Writer:
    """Writes operators in place of a node."""

    def __init__(self, model: ir.Model, node: ir.Node, names: Names) -> None:
        self.model, self.node, self.names = model, node, names

    def scalar(self, number: float) -> ir.Value:
        return self.constant(np.array(number, np.float32))

    def constant(self, array: np.ndarray) -> ir.Value:
        return add_initializer(self.model.graph, self.names.fresh(f"{self.node.name}_constant"), array)

    def add(self, op_type: str, *inputs: ir.Value | None) -> ir.Value:
        old = self.node.outputs[0]
        output = ir.Value(name=self.names.fresh(f"{old.name}_{op_type}"), type=old.type, shape=old.shape)
        name = self.names.fresh(f"{self.node.name}_{op_type}")
        add_node(graph_of(self.node), op_type, list(inputs), [output], name=name)
        return output

    def finish(self, op_type: str, *inputs: ir.Value | None) -> None:
        """Write the last operator, which takes the place and the name of the node."""
        node, output = self.node, ir.Value()
        add_node(graph_of(node), op_type, list(inputs), [output], name=node.name or "")
        take_output(output, node.outputs[0])
        graph_of(node).remove(node, safe=True)


def _prelu(writer: _Writer, x: ir.Value, slope: np.ndarray) -> None:
    slopes = writer.constant(slope.astype(np.float32))
    if np.all(slope <= 1) or np.all(slope >= 1):
        writer.finish("Max" if np.all(slope <= 1) else "Min", x, writer.add("Mul", x, slopes))
    else:
        below = writer.add("Clip", x, None, writer.scalar(0.0))
        writer.finish("Add", writer.add("Relu", x), writer.add("Mul", below, slopes))


def _mish(writer: _Writer, x: ir.Value) -> None:
    two = writer.scalar(2.0)
    e = writer.add("Exp", writer.add("Clip", x, None, writer.scalar(LARGEST)))
    n = writer.add("Mul", e, writer.add("Add", e, two))
    writer.finish("Mul", x, writer.add("Div", n, writer.add("Add", n, two)))
