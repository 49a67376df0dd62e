"""The writer of recipes: the output format, and the steps that follow in every format."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from onnxq.formats.attention import fuse_attention
from onnxq.formats.embeddings import KnownTables, looked_up, quantize_tables
from onnxq.formats.fusion_guards import guard_fusions
from onnxq.formats.gelu import fuse_gelu
from onnxq.formats.half_precision import ALWAYS_FLOAT, narrow_weights
from onnxq.formats.joint_products import join_products
from onnxq.formats.lstm import quantize_lstms
from onnxq.formats.qdq import write_qdq
from onnxq.formats.qoperator import write_qoperator
from onnxq.formats.recipe import Recipe
from onnxq.formats.run_time_ranges import quantize_at_run_time, with_clamps
from onnxq.formats.toggles import ToggleModel, toggle_model
from onnxq.options import Format
from onnxq.plan.plan import Plan
from onnxq.plan.reasons import Cause
from onnxq.quantization.parameters import Parameters

WRITERS: dict[str, Callable[[ir.Model, Plan, Parameters], ir.Model]] = {
    Format.QDQ: write_qdq,
    Format.QOPERATOR: write_qoperator,
}
"""Output formats by name: (normalized model, plan, parameters) -> a quantized copy."""
NARROWED = frozenset({Cause.SPEED, Cause.ACCURACY})
"""Causes of products that could be quantized but stay float: their weights become half precision."""


@dataclass(frozen=True)
class Writer:
    """Writer of quantized models.

    format    output format of quantized operators
    standard  write operators of the ONNX standard alone
    known     quantized embedding tables of earlier files; None to save memory
    """

    format: str
    standard: bool = False
    known: KnownTables | None = None

    def write(self, recipe: Recipe, parameters: Parameters) -> ir.Model:
        """Return the quantized model; the model of the recipe does not change."""
        plan = recipe.plan
        # quantized operators, with calibrated ranges and with run-time ranges
        run_time = [name for name in recipe.run_time if name in plan.nodes]
        result = WRITERS[self.format](recipe.model, with_clamps(plan, run_time), parameters)
        if run_time:
            quantize_at_run_time(result, plan, run_time)
            if recipe.few_rows:
                join_products(result)
                fuse_attention(result)
        # other operators
        if plan.nodes and not self.standard:
            fuse_gelu(result)
        if recipe.lstms:
            quantize_lstms(result, recipe.lstms)
        if any(looked_up(recipe.model)):
            quantize_tables(result, self.known)
        if recipe.half_precision:
            narrow_weights(result, _narrowed(recipe))
        guard_fusions(result)
        return result

    def toggles(self, recipe: Recipe, parameters: Parameters) -> ToggleModel | None:
        """Return the toggle model of a recipe; None where not all of its ranges are calibrated."""
        if recipe.lstms or any(name in recipe.plan.nodes for name in recipe.run_time):
            return None
        result = toggle_model(recipe.model, recipe.plan, parameters)
        if any(looked_up(recipe.model)):
            quantize_tables(result.model, self.known)
        return result


def _narrowed(recipe: Recipe) -> list[str]:
    """Return the names of the float products whose weights become half precision."""
    return [
        name
        for name, (node, reason) in recipe.plan.floats.items()
        if reason.cause in NARROWED
        or (node.op_type in ALWAYS_FLOAT and recipe.selection.refusal(node) is None)
    ]
