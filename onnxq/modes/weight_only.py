"""`--mode weights`: weights in 8 or 4 bits, activations in float."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import onnx_ir as ir

from onnxq.calibration.moments import LayerInput, Moments
from onnxq.errors import DataError, ModelError
from onnxq.formats.embedding_tables import Tables, find_tables, table_of
from onnxq.formats.embeddings import quantize_tables
from onnxq.formats.matmul_nbits import INT8_COMPUTE, BitsWriter, book_bytes, coded_bytes
from onnxq.formats.recipe import Recipe
from onnxq.graph.edit import constant, is_float, nodes_of, sizes, tidy
from onnxq.graph.shapes import infer_shapes, opset_of
from onnxq.modes.embeddings import code_table, code_tables
from onnxq.modes.products import SMALLEST, moments_in_turns, outcome, plan_products, weight_rows
from onnxq.modes.stored_weights import of_blocks, of_book, of_integers
from onnxq.normalize.agreement import difference
from onnxq.normalize.opset import lift_opset
from onnxq.options import QuantizeOptions, Rounding, WeightType
from onnxq.plan.plan import Plan, Selection
from onnxq.quantization.stored_weight import StoredWeight, error_share, joined
from onnxq.quantization.weights import Use, layer_inputs, second_moments, sharing, side_by_side
from onnxq.runtime.parallel import Job, Run
from onnxq.runtime.progress import progress
from onnxq.runtime.status import activity
from onnxq.search.inputs import Inputs
from onnxq.search.trial import Outcome
from onnxq.techniques.arithmetic import symmetric_scale
from onnxq.techniques.blockwise import Coded, Grid
from onnxq.techniques.codebooks import encode_book
from onnxq.transforms.algorithm import Needs
from onnxq.transforms.registry import ALGORITHMS
from onnxq.types import Floats

SHARED_BLOCK = 128
"""Block size of the kernel where a whole channel or tensor has one scale."""
MAX_LOSS = 0.04
"""Share of a layer's output power that rounding to 4 bits may cost (14 dB); above it, 8 bits are kept."""
BITS = {WeightType.INT8: 8, WeightType.INT4: 4}
BLOCKS_OPSET = 21
"""The first opset whose DequantizeLinear supports blocks."""
Coding = tuple[Floats, Floats | None]
"""A weight [channels, K], and the second moments [K, K] of its inputs."""
Rounded = tuple[Coded, StoredWeight]
Place = tuple[int, tuple[int, ...]]
"""Index of a node's input, and the axes along which it has a scale for each entry."""
RECURRENT: tuple[Place, ...] = (1, (0, 1)), (2, (0, 1))
"""Weights of all directions, and the recurrent ones: a scale for each direction and row."""
STORED: Mapping[str, Sequence[Place]] = {
    "Conv": [(1, (0,))],
    "ConvTranspose": [(1, (1,))],
    **dict.fromkeys(("GRU", "LSTM", "RNN"), RECURRENT),
}
"""Weights that are stored as int8 and computed in float, by operator."""


def quantize_weights_only(inputs: Inputs) -> Outcome:
    """Code the weights of all products and embedding tables; store convolutions' weights as int8."""
    options, start = inputs.options, time.perf_counter()
    base = _lifted(inputs) if options.standard else inputs.model
    rounding = _rounding(options, bool(inputs.samples.calibration))
    products = _planned(inputs, base, rounding)
    plan = products.plan
    # the codes
    model = products.model.clone()
    writer = BitsWriter(model, INT8_COMPUTE if options.integer_compute else 0)
    tables = {} if options.standard else find_tables(model)

    second = _SecondMoments(plan, layer_inputs(plan), products.moments)
    run = inputs.executor.opened(_Coding(rounding, options), side_by_side(plan.nodes.values()))
    products_stored, kept = _code_products(writer, _Products(plan, tables, options, second), run)
    if options.standard:
        quantize_tables(model)
    tables_stored = code_tables(writer, tables, _block(options))
    stored = _store(inputs.selection, model, writer)
    tidy(model)
    # the report
    seconds = (time.perf_counter() - start) / max(1, len(plan.nodes))
    notes = []
    if products.collected:
        notes.append(f"{seconds:.2f} s a product, with the moments of its inputs")
    if stored:
        nodes = "1 other node" if len(stored) == 1 else f"{len(stored)} other nodes"
        notes.append(f"weights of {nodes} stored in 8 bits, widened when the file is loaded")
    if kept:
        few = ", ".join(kept[:3])
        notes.append(
            f"{len(kept)} of {len(plan.nodes)} products keep 8 bits: "
            f"4 bits would cost too much accuracy ({few}, ...)"
        )
    technique = str(rounding if options.weight_type in BITS else options.weight_type)
    recipe = Recipe(base, plan, inputs.selection, techniques=(technique,))
    found = outcome(inputs, model, recipe, notes, len(stored))
    return replace(found, weights=products_stored | tables_stored | stored)


def _planned(inputs: Inputs, model: ir.Model, rounding: str) -> "_Planned":
    """Plan the products, collect the statistics that the rounding needs, and apply its rewrite."""
    options, algorithm = inputs.options, ALGORITHMS[rounding]

    def stored(channels: int, columns: int) -> int:
        if options.weight_type not in BITS:
            return book_bytes(channels, columns, _block(options))
        return coded_bytes(channels, columns, grid_of(options), padded=not options.standard)

    plan = plan_products(model, inputs.selection, stored)
    moments: Mapping[LayerInput, Moments] = {}
    if algorithm.needs is not Needs.NOTHING and options.weight_type in BITS:
        moments = moments_in_turns(
            model, list(layer_inputs(plan).values()), inputs.samples.calibration, inputs.executor
        )
    collected = bool(moments)
    if algorithm.rewrite is not None and moments:
        found = algorithm.rewrite(model, plan, moments, grid_of(options))
        if found is not None:
            model, moments = found.model, found.moments
        plan = plan_products(model, inputs.selection, stored)
    return _Planned(model, plan, moments, collected)


@dataclass(frozen=True)
class _Planned:
    """A model with its planned products, the moments of their inputs, and whether any were collected."""

    model: ir.Model
    plan: Plan
    moments: Mapping[LayerInput, Moments]
    collected: bool


@dataclass(eq=False)
class _SecondMoments:
    """Second moments of the inputs of products, by their names; those with one input share an array."""

    plan: Plan
    layers: Mapping[str, LayerInput]
    moments: Mapping[LayerInput, Moments]
    _last: dict[tuple[LayerInput | None, ...], Floats | None] = field(default_factory=dict)

    def __call__(self, names: Sequence[str]) -> Floats | None:
        """Return the second moments [K, K] of all inputs of some products; None where any is unknown."""
        taken = tuple(self.layers.get(name) for name in names)
        if taken not in self._last:  # Q, K and V follow one another
            known = [None if layer is None else self.moments.get(layer) for layer in taken]
            uses = [
                Use(self.plan.nodes[name], np.float32(0), found)
                for name, found in zip(names, known, strict=True)
            ]
            whole = second_moments(uses, centred=False)
            self._last = {taken: None if whole is None else whole[0]}
        return self._last[taken]


@dataclass(frozen=True, eq=False)
class _Coding(Job[Coding, list[Rounded]]):
    """Coding of weights, each with the second moments of its inputs or None."""

    rounding: str
    options: QuantizeOptions

    def opened(self, threads: int) -> Callable[[Sequence[Coding]], list[Rounded]]:
        """Return the function of weights [channels, K] with second moments [K, K]."""
        del threads
        return lambda items: [_coded(rows, second, self.rounding, self.options) for rows, second in items]


@dataclass(frozen=True, eq=False)
class _Group:
    """Products with one weight.

    names  of the products
    rows   the weight, where it needs no rounding; None where it is coded elsewhere
    table  name of the embedding table that it is, or None
    """

    names: Sequence[str]
    rows: Floats | None
    table: str | None


@dataclass(frozen=True, eq=False)
class _Products:
    """Products to code; `second` returns the second moments of the inputs of some."""

    plan: Plan
    tables: Tables
    options: QuantizeOptions
    second: Callable[[Sequence[str]], Floats | None]

    def coding(self, groups: deque[_Group]) -> Iterator[Coding]:
        """Add the groups of products to `groups`; yield the weights that are to be rounded."""
        every, done = list(sharing(self.plan)), 0
        with (
            progress(total=len(every), desc="rounding weights", unit="weight", leave=False) as bar,
            activity(lambda: f"rounding weights, {done} of {len(every)}"),
        ):
            for names in every:
                rows = weight_rows(self.plan.nodes[names[0]])
                table = table_of(rows, self.tables)
                as_it_is = table is not None or self.options.weight_type not in BITS
                groups.append(_Group(names, rows if as_it_is else None, table))
                if not as_it_is:
                    yield rows, self.second(names)
                done += 1
                bar.update()


def _code_products(
    writer: BitsWriter, products: _Products, run: Run[Coding, list[Rounded]]
) -> tuple[dict[str, StoredWeight], list[str]]:
    """Replace all products; return their weights, and the names of those that keep 8 bits instead of 4."""
    nodes, kept = {node.name: node for node in nodes_of(writer.model)}, list[str]()
    options, groups = products.options, deque[_Group]()
    weights: dict[str, StoredWeight] = {}

    def write(group: _Group, found: Coded, weight: StoredWeight) -> None:
        key = group.table or group.names[0]
        for name in group.names:
            weights[name] = weight
            if options.standard and group.table is None:
                writer.standard_product(nodes[name], found, key)
            else:
                writer.product(nodes[name], found, key)

    coded = (each for together in run(products.coding(groups)) for each in together)
    for found in chain(coded, [None]):
        while groups:
            group = groups.popleft()
            if group.rows is None:
                assert found is not None
                if found[1].bits != BITS[options.weight_type]:
                    kept += group.names
                write(group, *found)
                break
            if group.table is not None:
                table = code_table(group.rows, _block(options))
                write(group, table, of_blocks(group.rows, table))
                continue
            book = encode_book(group.rows, str(options.weight_type), _block(options))
            for name in group.names:
                weights[name] = of_book(group.rows, book)
                writer.book_product(nodes[name], book, group.names[0])
    return weights, kept


def _coded(rows: Floats, second: Floats | None, rounding: str, options: QuantizeOptions) -> Rounded:
    """Code a weight in the bits that are asked for, or in 8 where fewer would cost too much accuracy."""
    coded = code(rows, grid_of(options), rounding, second)
    share = error_share(rows, coded.decoded(), second)
    if options.weight_type is WeightType.INT4 and share > MAX_LOSS:
        coded = code(rows, grid_of(options, WeightType.INT8), Rounding.RTN, None)
        share = error_share(rows, coded.decoded(), second)
    return coded, of_blocks(rows, coded, share, padded=not options.standard)


def _lifted(inputs: Inputs) -> ir.Model:
    """Return the model at opset 21, where blocks of 4 bits are standard."""
    if inputs.options.weight_type not in BITS:
        raise ModelError(
            f"--standard: ONNX itself has no {inputs.options.weight_type}: "
            "choose int4 or int8, or leave --standard out"
        )
    lifted = lift_opset(inputs.model, BLOCKS_OPSET)
    if opset_of(lifted) < BLOCKS_OPSET:
        raise ModelError(
            f"{inputs.options.model}: onnx cannot lift it to opset {BLOCKS_OPSET}: leave --standard out"
        )
    infer_shapes(lifted)
    changed = difference(inputs.model, lifted, inputs.probe) if inputs.probe is not None else ""
    if changed:
        raise ModelError(
            f"{inputs.options.model}: computes something else at opset {BLOCKS_OPSET}: {changed}: "
            "leave --standard out"
        )
    return lifted


def _rounding(options: QuantizeOptions, data: bool) -> str:
    if options.rounding == Rounding.AUTO:
        return Rounding.GPTQ if data else Rounding.HQQ
    if ALGORITHMS[options.rounding].needs is not Needs.NOTHING and not data:
        raise DataError(
            f"--rounding {options.rounding} needs calibration samples: give a folder with --calib"
        )
    return options.rounding


def grid_of(options: QuantizeOptions, kind: WeightType | None = None) -> Grid:
    """Return the grid of codes that the options ask for."""
    bits = BITS[kind or options.weight_type]
    if options.block in ("channel", "tensor"):
        return Grid(bits, SHARED_BLOCK, options.symmetric, options.block)
    return Grid(bits, int(options.block), options.symmetric)


def _block(options: QuantizeOptions) -> int:
    return SHARED_BLOCK if options.block in ("channel", "tensor") else int(options.block)


def code(rows: Floats, grid: Grid, rounding: str, second: Floats | None) -> Coded:
    """Round a weight [channels, K] in blocks.

    Args:
        rows: the weight.
        grid: grid of the codes.
        rounding: name of the rounding technique.
        second: second moments [K, K] of the layer's input; None where they are unknown.
    """
    found = ALGORITHMS[rounding].code
    assert found is not None
    return found(rows, grid, second)


def _store(selection: Selection, model: ir.Model, writer: BitsWriter) -> dict[str, StoredWeight]:
    """Store weights without an integer kernel as int8 in the file; return them by the name of the node."""
    found: dict[str, StoredWeight] = {}
    for node in list(nodes_of(model)):
        places = STORED.get(node.op_type, ()) if node.domain in ("", "ai.onnx") else ()
        stored = [
            weight
            for place in places
            if selection.refusal(node) is None and (weight := _stored(node, place, writer)) is not None
        ]
        if stored:
            found[node.name or ""] = joined(stored)
    return found


def _stored(node: ir.Node, place: Place, writer: BitsWriter) -> StoredWeight | None:
    """Store a constant input of a node as int8; None where it is none, or would not become smaller."""
    index, axes = place
    value = node.inputs[index]
    shape = sizes(value)
    if shape is None or np.prod(shape) < SMALLEST:
        return None
    array = constant(value) if is_float(value) else None
    if array is None:
        return None
    others = tuple(i for i in range(array.ndim) if i not in axes)
    scales = symmetric_scale(np.abs(array).max(axis=others, keepdims=True))
    if array.size + scales.nbytes >= array.nbytes:
        return None
    integers = np.rint(array / scales).clip(-127, 127).astype(np.int8)
    writer.stored(node, index, integers, scales)
    return of_integers(array, integers, scales)
