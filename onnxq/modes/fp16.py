"""`--mode fp16`: float weights in half precision; the runtime widens them once, when it loads the file.

Inputs, outputs and arithmetic stay float32: the runtime has hardly any half-precision kernels for CPUs and
would convert values around every node. Weights outside the range of half precision stay float32.
"""

import numpy as np
import onnx_ir as ir

from onnxq.formats.half_precision import fits_half_precision
from onnxq.formats.recipe import Recipe
from onnxq.graph.edit import Names, add_initializer, add_node, constant, tidy
from onnxq.modes.products import outcome
from onnxq.plan.plan import Plan
from onnxq.search.inputs import Inputs
from onnxq.search.trial import Outcome

SMALLEST = 256
"""Least number of values of a constant that is narrowed: below it, the Cast takes as many bytes."""


def convert_to_fp16(inputs: Inputs) -> Outcome:
    """Put a Cast from float16 before each large float constant."""
    model = inputs.model.clone()
    names, kept, narrowed = Names(model), [], 0
    for value in list(model.graph.initializers.values()):
        array = constant(value) if value.dtype == ir.DataType.FLOAT else None
        if array is None or array.size < SMALLEST or value.is_graph_output():
            continue
        if not fits_half_precision(array):
            kept.append(value.name or "")
            continue
        stored = add_initializer(model.graph, names.fresh(f"{value.name}_half"), array.astype(np.float16))
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
    notes = [f"{narrowed} constants in half precision"]
    if kept:
        notes.append(
            f"{len(kept)} constants stay float32: half precision cannot hold them: {', '.join(kept[:5])}"
        )
    recipe = Recipe(inputs.model, Plan(), techniques=("half precision",))
    nothing = f"it has no constant of {SMALLEST} float32 values that half precision can hold"
    return outcome(inputs, model, recipe, notes, narrowed, nothing)
