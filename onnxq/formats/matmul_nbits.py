"""Weights in 4 or 8 bits in the layouts of MatMulNBits, MatMulBnb4 and GatherBlockQuantized.

Weights of operators without such a kernel are stored as integers with a Cast and a Mul. The runtime folds
these into float weights when it loads the file: the file is smaller, the speed is the same.
"""

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import (
    MICROSOFT,
    Names,
    add_initializer,
    add_node,
    constant,
    graph_of,
    input_at,
    take_output,
)
from onnxq.techniques.blockwise import Coded, Grid, as_blocks
from onnxq.techniques.codebooks import BOOKS, BookCoded
from onnxq.types import Array, Floats, Integers

INT8_COMPUTE = 4
"""The kernels' fast accuracy level: activations are rounded to 8 bits per block."""


def pack(codes: Integers, bits: int) -> Integers:
    """Pack codes `[..., count]` into bytes, the first of two in the low half."""
    if bits == 8:
        return codes
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], 1), np.uint8)], -1)
    packed: Integers = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return packed


def unpack(packed: Integers, bits: int, count: int) -> Integers:
    """Invert `pack` for codes `[..., count]`."""
    if bits == 8:
        return packed
    codes = np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:-1], -1)
    return codes[..., :count]


def coded_product(node: ir.Node) -> Coded | None:
    """Read the weight of a MatMulNBits; None for other nodes, or a weight that an embedding shares."""
    if node.op_type != "MatMulNBits" or node.domain != MICROSOFT:
        return None
    columns, bits, block = (node.attributes[name].as_int() for name in ("K", "bits", "block_size"))
    value, zeros = node.inputs[1], constant(input_at(node, 3))
    if value is None or any(use.node.op_type != "MatMulNBits" for use in value.uses()):
        return None
    packed, scales = constant(value), constant(node.inputs[2])
    assert packed is not None
    assert scales is not None
    grid = Grid(bits, block, symmetric=zeros is None)
    codes = unpack(packed, bits, block).reshape(len(packed), -1)[:, :columns]
    shape = len(packed), packed.shape[1]
    if zeros is None:
        offsets = np.full(shape, grid.middle, np.uint8)
    else:
        offsets = unpack(zeros.reshape(len(packed), -1), bits, shape[1])
    return Coded(grid, np.ascontiguousarray(codes), scales.reshape(shape), offsets)


def store_product(node: ir.Node, coded: Coded) -> None:
    """Give a MatMulNBits, and all that share its weight, other codes and scales; zero points stay."""
    packed = pack(as_blocks(coded.codes, coded.grid.block), coded.grid.bits)
    for index, array in ((1, packed), (2, coded.scales)):
        value = node.inputs[index]
        assert value is not None
        assert value.shape is not None
        value.const_value = ir.tensor(
            np.ascontiguousarray(array).reshape(value.shape.numpy()), name=value.name
        )


def coded_bytes(channels: int, columns: int, grid: Grid, *, padded: bool) -> int:
    """Return the bytes of a weight [channels, columns] in blocks; `padded` if the last one is filled up."""
    blocks = -(-columns // grid.block)
    codes = (blocks * grid.block if padded else columns) * grid.bits // 8
    zeros = 0 if grid.symmetric else -(-blocks * grid.bits // 8)
    return channels * (codes + 4 * blocks + zeros)


def book_bytes(channels: int, columns: int, block: int) -> int:
    """Return the bytes of a 4-bit weight [channels, columns] with a scale per block of all its values."""
    values = channels * columns
    return -(-values // 2) + 4 * -(-values // block)


class BitsWriter:
    """Writer that replaces weights in a model, in place; a weight shared by several nodes is stored once.

    `key` names the weight in all methods.
    """

    def __init__(self, model: ir.Model, accuracy_level: int) -> None:
        self.model, self.accuracy_level = model, accuracy_level
        self.graph, self.names = model.graph, Names(model)
        self._stored: dict[str | tuple[str, ir.Graph], list[ir.Value]] = {}
        model.graph.opset_imports.setdefault(MICROSOFT, 1)

    def product(self, node: ir.Node, coded: Coded, key: str) -> None:
        """Replace a MatMul or Gemm by MatMulNBits."""
        grid, columns = coded.grid, coded.codes.shape[1]
        inputs: list[ir.Value | None] = [node.inputs[0], *self._blocks(coded, key)]
        bias = input_at(node, 2)
        if bias is not None:
            inputs += [None] * (5 - len(inputs)) + [bias]
        sizes = {"K": columns, "N": len(coded.codes), "bits": grid.bits, "block_size": grid.block}
        self._replace(node, "MatMulNBits", inputs, accuracy_level=self.accuracy_level, **sizes)

    def standard_product(self, node: ir.Node, coded: Coded, key: str) -> None:
        """Give a MatMul or Gemm a blocked DequantizeLinear (opset 21) as weight `[K, N]`, which is fused.

        The runtime finds the integers in the node's own graph only: a body has its own.
        """
        grid, graph = coded.grid, graph_of(node)
        low = grid.middle if grid.symmetric else 0
        kind = {
            (4, True): ir.DataType.INT4,
            (4, False): ir.DataType.UINT4,
            (8, True): ir.DataType.INT8,
            (8, False): ir.DataType.UINT8,
        }
        stored = kind[grid.bits, grid.symmetric]

        def integers(name: str, array: Integers) -> ir.Value:
            shifted = np.ascontiguousarray(
                (array.astype(np.int16) - low).T.astype(np.int8 if grid.symmetric else np.uint8)
            )
            tensor = ir.Tensor(
                shifted.astype(stored.numpy()), dtype=stored, name=self.names.fresh(f"{key}_{name}")
            )
            value = ir.Value(
                name=tensor.name, shape=tensor.shape, type=ir.TensorType(stored), const_value=tensor
            )
            graph.register_initializer(value)
            return value

        place = key, graph
        if place not in self._stored:
            scales = np.ascontiguousarray(coded.scales.T)
            self._stored[place] = [
                integers("codes", coded.codes),
                add_initializer(graph, self.names.fresh(f"{key}_scales"), scales),
            ]
            if not grid.symmetric:
                self._stored[place].append(integers("zeros", coded.zeros))
        weight = ir.Value(
            name=self.names.fresh(f"{key}_weight"),
            shape=ir.Shape(coded.codes.T.shape),
            type=ir.TensorType(ir.DataType.FLOAT),
        )
        name = self.names.fresh(f"{key}_DequantizeLinear")
        add_node(
            graph,
            "DequantizeLinear",
            [*self._stored[place]],
            [weight],
            name=name,
            axis=0,
            block_size=grid.block,
        )
        node.replace_input_with(1, weight)
        if node.op_type == "Gemm":
            node.attributes["transB"] = ir.AttrInt64("transB", 0)

    def _blocks(self, coded: Coded, key: str) -> list[ir.Value]:
        """Return codes `[N, blocks, bytes]`, scales `[N, blocks]` and, if asymmetric, zero points."""
        if key not in self._stored:
            grid = coded.grid
            blocks = as_blocks(coded.codes, grid.block)
            arrays = [("codes", pack(blocks, grid.bits)), ("scales", coded.scales)]
            if not grid.symmetric:
                arrays.append(("zeros", pack(coded.zeros, grid.bits)))
            self._stored[key] = [self._add(f"{key}_{name}", array) for name, array in arrays]
        return self._stored[key]

    def book_product(self, node: ir.Node, coded: BookCoded, key: str) -> None:
        """Replace a MatMul or Gemm by MatMulBnb4, and an Add if it has a bias.

        The first of two codes is in the high half of a byte.
        """
        if key not in self._stored:
            even = np.append(coded.codes, np.zeros(coded.codes.size % 2, np.uint8))
            packed = pack(even.reshape(-1, 2)[:, ::-1].reshape(-1), 4)
            self._stored[key] = [self._add(f"{key}_codes", packed), self._add(f"{key}_absmax", coded.absmax)]
        inputs = [node.inputs[0], *self._stored[key]]
        kind, (channels, columns) = list(BOOKS).index(coded.name), coded.shape
        self._replace(
            node,
            "MatMulBnb4",
            inputs,
            bias=input_at(node, 2),
            K=columns,
            N=channels,
            block_size=coded.block,
            quant_type=kind,
        )

    def embedding(self, node: ir.Node, coded: Coded, key: str) -> None:
        """Replace a Gather of rows by GatherBlockQuantized; a product with the table shares its bytes."""
        codes, scales, *zeros = self._blocks(coded, key)
        shape = add_initializer(
            self.graph, self.names.fresh(f"{key}_shape"), np.array([len(coded.codes), -1])
        )
        flat = ir.Value(name=self.names.fresh(f"{key}_rows"), type=codes.type)
        add_node(self.graph, "Reshape", [codes, shape], [flat], name=self.names.fresh(f"{key}_Reshape"))
        inputs = [flat, node.inputs[1], scales, *zeros]
        grid = coded.grid
        self._replace(
            node,
            "GatherBlockQuantized",
            inputs,
            gather_axis=0,
            quantize_axis=1,
            block_size=grid.block,
            bits=grid.bits,
        )

    def stored(self, node: ir.Node, index: int, integers: Array, scales: Floats) -> None:
        """Store an operand as int8 with scales of the same rank, widened when the file is loaded."""
        value = node.inputs[index]
        assert value is not None
        key = value.name or "weight"
        if key not in self._stored:
            codes, factor = self._add(f"{key}_codes", integers), self._add(f"{key}_scales", scales)
            wide, result = (
                ir.Value(name=self.names.fresh(f"{key}_{name}"), shape=value.shape, type=value.type)
                for name in ("wide", "float")
            )
            add_node(
                self.graph,
                "Cast",
                [codes],
                [wide],
                name=self.names.fresh(f"{key}_Cast"),
                to=int(ir.DataType.FLOAT),
            )
            add_node(self.graph, "Mul", [wide, factor], [result], name=self.names.fresh(f"{key}_Mul"))
            self._stored[key] = [result]
        node.replace_input_with(index, self._stored[key][0])

    def _add(self, name: str, array: Array) -> ir.Value:
        return add_initializer(self.graph, self.names.fresh(name), np.ascontiguousarray(array))

    def _replace(
        self,
        node: ir.Node,
        op_type: str,
        inputs: list[ir.Value | None],
        bias: ir.Value | None = None,
        **attributes: int,
    ) -> None:
        """Replace a node by another one of the same name."""
        old, graph = node.outputs[0], graph_of(node)
        result = ir.Value(name=self.names.fresh(f"{old.name}_product"), shape=old.shape, type=old.type)
        add_node(graph, op_type, inputs, [result], name=node.name or "", domain=MICROSOFT, **attributes)
        if bias is not None:
            biased = ir.Value(name=self.names.fresh(f"{old.name}_biased"), shape=old.shape, type=old.type)
            add_node(graph, "Add", [result, bias], [biased], name=self.names.fresh(f"{node.name}_Add"))
            result = biased
        take_output(result, old)
        graph.remove(node, safe=True)
