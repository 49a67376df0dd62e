"""The list of passes that bring any model into the planner's form without changing its outputs.

Each pass is a function that rewrites a model in place and returns whether it modified the model.
"""

import logging
from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes import common

from onnxq.errors import ModelError, first_line
from onnxq.graph.edit import tidy
from onnxq.graph.interface import OVERRIDABLE_FROM
from onnxq.graph.shapes import infer_shapes
from onnxq.normalize.all_axes import name_all_axes
from onnxq.normalize.canonical import canonicalize
from onnxq.normalize.constant_branches import inline_branches
from onnxq.normalize.constants import fold_constants
from onnxq.normalize.dropout import bypass_dropout
from onnxq.normalize.empty_operands import drop_empty_operands
from onnxq.normalize.float_types import compute_in_float32
from onnxq.normalize.fold_backward import fold_channel_arithmetic
from onnxq.normalize.fold_forward import fold_forward
from onnxq.normalize.foreign_types import ask_types
from onnxq.normalize.identities import remove_identities
from onnxq.normalize.inner_softmax import flatten_behind
from onnxq.normalize.loop_invariants import read_invariants
from onnxq.normalize.opset import lift_opset
from onnxq.normalize.outputs import separate_outputs
from onnxq.normalize.reshapes import fix_reshapes
from onnxq.normalize.scalars import drop_axes_of_numbers
from onnxq.normalize.stated_shapes import infer_without_stated_shapes
from onnxq.normalize.unique_names import make_names_unique, name_nodes
from onnxq.normalize.written_out_slopes import join_slopes

logging.getLogger("onnx_ir").addHandler(logging.NullHandler())  # its warnings concern its own passes

Pass = Callable[[ir.Model], bool]
"""Rewrites a model in place and returns whether it modified the model."""

HIDDEN_INITIALIZERS = 4
"""First version of the format whose initializers need not be inputs; the runtime insists on it in bodies."""
SMALL_CONSTANT = 8
"""Elements up to which equal constants are merged, as the runtime does: repeated axes and bounds."""


def _library(make: Callable[[], ir.passes.PassBase]) -> Pass:
    """Make a `Pass` of a class of onnx_ir, with a new object for each model."""
    return lambda model: make()(model).modified


def _any_of(*steps: Pass) -> Pass:
    """Make one pass of several; all of them run."""
    return lambda model: sum(step(model) for step in steps) > 0


def _on_change(first: Pass, *then: Pass) -> Pass:
    """Make a pass that runs the others only where the first one modified the model."""

    def run(model: ir.Model) -> bool:
        modified = first(model)
        if modified:
            for step in then:
                step(model)
        return modified

    return run


INLINING: tuple[Pass, ...] = (
    _library(common.InlinePass),  # before the opset conversion, which does not convert functions
    _library(common.RemoveUnusedOpsetsPass),
)
"""Passes before the conversion to a newer opset."""

PASSES: tuple[Pass, ...] = (
    bypass_dropout,  # before remove_identities: it leaves Identity nodes
    remove_identities,
    separate_outputs,  # the runtime computes garbage for a body that outputs one value twice
    name_nodes,  # before NameFixPass, which numbers nodes
    _library(common.NameFixPass),
    _library(common.LiftSubgraphInitializersToMainGraphPass),
    make_names_unique,  # before shape inference, which matches values by name
    infer_without_stated_shapes,  # before the passes that ask for types
    _on_change(_any_of(compute_in_float32, ask_types), infer_shapes),
    fold_constants,  # before inline_branches, which needs constant conditions
    _on_change(_any_of(inline_branches, read_invariants), infer_shapes, fold_constants),
    _on_change(drop_empty_operands, remove_identities),
    _library(lambda: common.DeduplicateInitializersPass(SMALL_CONSTANT)),  # makes more nodes equal
    _library(common.CommonSubexpressionEliminationPass),  # the runtime does so before selecting kernels
    name_all_axes,
    drop_axes_of_numbers,  # before canonicalize, which looks for fusions
    join_slopes,  # before canonicalize, which rewrites arithmetic with constants
    canonicalize,  # before the folds, which know Conv and Gemm only
    fold_channel_arithmetic,  # before fold_forward: arithmetic between two Convs goes into the first
    fold_forward,
    tidy,
    make_names_unique,  # the rewrites added nodes
    infer_shapes,  # before fix_reshapes, which needs the ranks
    _on_change(fix_reshapes, tidy, infer_shapes),
    flatten_behind,  # after infer_shapes: it needs the sizes
)
"""All other passes, in order."""


NAMING: tuple[Pass, ...] = (
    separate_outputs,
    name_nodes,
    _library(common.NameFixPass),
    _library(common.LiftSubgraphInitializersToMainGraphPass),
    make_names_unique,
    infer_without_stated_shapes,
)
"""The passes that a model needs to be planned at all; they rewrite no operator."""


def normalize(model: ir.Model, *, lift: bool = True) -> ir.Model:
    """Return the normalized model; the given one must not be used afterwards.

    Args:
        model: the model to rewrite.
        lift: convert to the opset of Q/DQ with an axis, instead of keeping the model's own.

    Raises:
        ModelError: a function cannot be inlined.
    """
    return _run(model, PASSES, lift=lift)


def name_and_infer(model: ir.Model) -> ir.Model:
    """Return the model with unique names and known shapes, and with no operator rewritten."""
    return _run(model, NAMING, lift=False)


def _run(model: ir.Model, passes: tuple[Pass, ...], *, lift: bool) -> ir.Model:
    constants_listed = model.ir_version < OVERRIDABLE_FROM
    try:
        for step in INLINING:
            step(model)
    except (ValueError, ir.passes.PassError) as error:
        raise ModelError(f"the model's functions cannot be inlined: {first_line(error)}") from error
    if constants_listed:  # before all that looks for constants; the converter wants each of them listed
        common.RemoveInitializersFromInputsPass()(model)
        model.ir_version = max(model.ir_version, OVERRIDABLE_FROM)
    if lift:
        model = lift_opset(model)
    for step in passes:
        step(model)
    if len(list(model.graphs())) > 1:
        # bodies read initializers that are no inputs
        model.ir_version = max(model.ir_version, HIDDEN_INITIALIZERS)
    return model
