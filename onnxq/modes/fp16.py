"""Float weights in 16 bits; the runtime widens them once, when it loads the file.

`--mode fp16` stores half precision, `--mode weights --weight-type bfloat16` the type with the range of
float32 and 8 bits of precision. Inputs, outputs and arithmetic stay float32: the runtime has hardly any
16-bit kernels for CPUs and would convert values around every node. Weights outside the range of the type stay
float32.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.errors import ModelError
from onnxq.formats.half_precision import fits_half_precision
from onnxq.formats.recipe import Recipe
from onnxq.graph.edit import Names, add_initializer, add_node, constant, tidy
from onnxq.graph.shapes import opset_of
from onnxq.modes.other_engines import BFLOAT16_NOTE
from onnxq.modes.products import outcome
from onnxq.normalize.opset import LEAST_OPSET
from onnxq.plan.plan import Plan
from onnxq.search.inputs import Inputs
from onnxq.search.trial import Outcome
from onnxq.types import Array

SMALLEST = 256
"""Least number of values of a constant that is narrowed: below it, the Cast takes as many bytes."""


@dataclass(frozen=True)
class _Narrow:
    """A 16-bit float type.

    type    the type
    name    its name in reports
    ending  of the names of its constants
    holds   whether it can hold a weight
    """

    type: ir.DataType
    name: str
    ending: str
    holds: Callable[[Array], bool]


def _fits_bfloat16(weight: Array) -> bool:
    """Whether no value becomes infinite: bfloat16 has the exponents of float32."""
    return bool(np.isfinite(weight.astype(ir.DataType.BFLOAT16.numpy()).astype(np.float32)).all())


HALF = _Narrow(ir.DataType.FLOAT16, "half precision", "half", fits_half_precision)
BFLOAT16 = _Narrow(ir.DataType.BFLOAT16, "bfloat16", "bfloat16", _fits_bfloat16)


def convert_to_fp16(inputs: Inputs) -> Outcome:
    """Put a Cast from float16 before each large float constant."""
    return _narrowed(inputs, HALF)


def convert_to_bfloat16(inputs: Inputs) -> Outcome:
    """Put a Cast from bfloat16 before each large float constant.

    Raises:
        ModelError: the model's opset has no bfloat16.
    """
    if opset_of(inputs.model) < LEAST_OPSET:
        raise ModelError(
            f"{inputs.options.model}: onnx cannot lift it to opset {LEAST_OPSET}, the first with bfloat16: "
            "choose --mode fp16"
        )
    return _narrowed(inputs, BFLOAT16, BFLOAT16_NOTE)


def _narrowed(inputs: Inputs, kind: _Narrow, *more_notes: str) -> Outcome:
    """Put a Cast from a 16-bit float type before each large float constant."""
    model = inputs.model.clone()
    names, kept, narrowed = Names(model), [], 0
    for value in list(model.graph.initializers.values()):
        array = constant(value) if value.dtype == ir.DataType.FLOAT else None
        if array is None or array.size < SMALLEST or value.is_graph_output():
            continue
        if not kind.holds(array):
            kept.append(value.name or "")
            continue
        fresh = names.fresh(f"{value.name}_{kind.ending}")
        stored = add_initializer(model.graph, fresh, array.astype(kind.type.numpy()))
        widened = ir.Value(name=names.fresh(f"{value.name}_widened"), shape=value.shape, type=value.type)
        add_node(
            model.graph,
            "Cast",
            [stored],
            [widened],
            name=names.fresh(f"{value.name}_Cast"),
            to=int(ir.DataType.FLOAT),
        )
        value.replace_all_uses_with(widened)
        narrowed += 1
    tidy(model)
    notes = [f"{narrowed} constants in {kind.name}", *more_notes]
    if kept:
        notes.append(
            f"{len(kept)} constants stay float32: {kind.name} cannot hold them: {', '.join(kept[:5])}"
        )
    recipe = Recipe(inputs.model, Plan(), techniques=(kind.name,))
    nothing = f"it has no constant of {SMALLEST} float32 values that {kind.name} can hold"
    return outcome(inputs, model, recipe, notes, narrowed, nothing)
