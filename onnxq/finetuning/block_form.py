"""The training form of a file with weights in blocks of few bits: its float model with them as inputs."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxq.comparison.errors import decibels
from onnxq.errors import ModelError
from onnxq.finetuning.form import TrainingForm, with_inputs
from onnxq.finetuning.tape import LEAST_OPSET
from onnxq.finetuning.trained import Bias, Values
from onnxq.finetuning.trained_weights import CELL, BlockGrowth, BlockWeight
from onnxq.formats.matmul_nbits import coded_product, store_product
from onnxq.formats.recipe import Recipe
from onnxq.graph.edit import constant, input_at
from onnxq.graph.shapes import opset_of
from onnxq.plan.plan import PlannedNode
from onnxq.plan.products import channel_axis, following_bias
from onnxq.quantization.parameters import Parameters
from onnxq.quantization.stored_weight import error_share
from onnxq.search.trial import Outcome
from onnxq.techniques.blockwise import Coded, spread
from onnxq.techniques.saturation import kernel_order, original_order
from onnxq.types import Floats

WRITTEN_BIAS = 5
"""Index of the bias among the inputs of MatMulNBits."""


def block_form(recipe: Recipe, written: ir.Model) -> TrainingForm:
    """Return the training form of a file whose products are MatMulNBits.

    Embedding tables, and products that share one, keep their float weights.

    Args:
        recipe: the float model, with the plan of its products.
        written: the file's model.

    Raises:
        ModelError: the opset is too old for the nodes of a backward pass.
    """
    if opset_of(recipe.model) < LEAST_OPSET:
        raise ModelError(
            f"finetuning needs opset {LEAST_OPSET}, and that of the model, {opset_of(recipe.model)}, "
            "cannot be raised: export it again with a newer one"
        )
    model = recipe.model.clone()
    nodes, products = ({node.name or "": node for node in each.graph} for each in (model, written))
    found: dict[ir.Value, BlockWeight | Bias] = {}
    for name, planned in recipe.plan.nodes.items():
        coded = coded_product(products[name]) if name in products else None
        value = nodes[name].inputs[1] if name in nodes else None
        if coded is None or value is None or value in found:
            continue
        found[value] = _weight(planned, coded)
        bias, place = _bias(planned, nodes)
        array = constant(bias)
        if bias is not None and array is not None:
            found[bias] = Bias(place, array.astype(np.float32), np.ones((), np.float32))
    trained = with_inputs(model, found.items())
    for name, each in list(trained.items()):
        if isinstance(each, BlockWeight):
            zeros = np.zeros(each.coded.scales.shape, np.float32)
            block = each.coded.grid.block
            trained[f"{name}_growth"] = BlockGrowth(name, zeros, each.axis, block, each.start.shape)
    rounded = {value.name or "": value.name or "" for node in model.graph for value in node.outputs}
    return TrainingForm(model, trained, recipe, Parameters(), rounded)


def _weight(planned: PlannedNode, coded: Coded) -> BlockWeight:
    """Return the weight of a product, which starts in the cells of its codes."""
    array, axis = constant(planned.node.inputs[1]), channel_axis(planned)
    assert array is not None
    origin = array.astype(np.float32)
    block, columns = coded.grid.block, coded.codes.shape[1]
    scales, zeros = (spread(each, block, columns) for each in (coded.scales, coded.zeros))
    codes = coded.codes.astype(np.float32) - zeros
    rows: Floats = np.clip(kernel_order(origin, axis) / scales, codes - CELL, codes + CELL)
    start = original_order(rows.astype(np.float32), origin.shape, axis)
    return BlockWeight(origin, start, axis, planned.name, coded)


def _bias(planned: PlannedNode, nodes: dict[str, ir.Node]) -> tuple[ir.Value | None, tuple[str, int]]:
    """Return the bias of a product, and its place in the file."""
    if planned.row.op_type == "Gemm":
        return input_at(nodes[planned.name], 2), (planned.name, WRITTEN_BIAS)
    following = following_bias(planned)
    if following is None:
        return None, ("", 0)
    node, index = following
    return nodes[node.name or ""].inputs[index], (node.name or "", index)


def with_blocks(outcome: Outcome, form: TrainingForm, values: Values) -> Outcome:
    """Return an outcome with trained values in its file."""
    model, weights = outcome.written.clone(), dict(outcome.weights)
    nodes = {node.name: node for node in model.graph}
    grown = {each.weight: np.exp(values[name]) for name, each in form.growths.items()}
    for name, each in form.trained.items():
        if isinstance(each, BlockWeight):
            coded = each.codes(values[name], grown[name])
            store_product(nodes[each.node], coded)
            share = error_share(kernel_order(each.origin, each.axis), coded.decoded())
            weights[each.node] = replace(weights[each.node], sqnr_db=decibels(share))
        elif isinstance(each, Bias):
            node, index = each.place
            value = input_at(nodes[node], index)
            assert value is not None
            value.const_value = ir.tensor(each.fed(values[name]), name=value.name)
    return replace(outcome, written=model, weights=weights)
