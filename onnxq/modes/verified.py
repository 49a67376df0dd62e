"""The last step of every mode: the written file is compared with the float model, and the report is made."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from onnxq.comparison.feedback import affordable
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds
from onnxq.evaluation.layer_errors import histograms, layer_rows
from onnxq.evaluation.origin import file_digests, origin
from onnxq.evaluation.verification import (
    Kernels,
    Outputs,
    VerificationInputs,
    compare_outputs,
    inspect_kernels,
)
from onnxq.formats.recipe import Recipe
from onnxq.graph.edit import nodes_of
from onnxq.graph.files import file_bytes
from onnxq.graph.macs import ShapeByName, concrete_shapes, node_macs
from onnxq.modes.last_word import timed_samples
from onnxq.options import Effort, Method, Mode
from onnxq.plan.float_nodes import FloatNodes
from onnxq.plan.plan import Plan
from onnxq.plan.shapes import planned_shapes
from onnxq.report.quantization import Drop, Latency, QuantizeReport
from onnxq.report.warnings import result_warnings
from onnxq.runtime.parallel import IN_PROCESS, Executor
from onnxq.runtime.random_seeds import unseeded_nodes
from onnxq.search.inputs import Inputs
from onnxq.search.task import Task
from onnxq.search.trial import Outcome
from onnxq.version import __version__

MOST_MOVED = 4 << 20
"""Bytes of a sample's outputs from which the written file is verified in this process, not on a cluster."""


def verified(
    inputs: Inputs,
    path: Path,
    outcome: Outcome,
    latency: Latency | None,
    task: Task | None,
    trained: frozenset[str],
) -> QuantizeReport:
    """Compare the written file with the float model, and make the report.

    Args:
        inputs: of the command.
        path: the written file.
        outcome: what was quantized, and how.
        latency: of the file and of the float model, if they were timed.
        task: labelled samples for `limits.max_drop`.
        trained: names of samples that weights were trained on.
    """
    options, choice = inputs.options, outcome.choice
    recipe = choice.recipe
    # kernels and outputs
    shapes = _shapes(inputs, outcome)
    kernels, outputs = _inspect_and_run(inputs, path, outcome, shapes, trained)
    # the report
    ranges = {
        name: (sketch.minimum, sketch.maximum)
        for name, sketch in outcome.statistics.sketches.items()
        if name in recipe.plan.tensors and sketch.batches
    }
    report = QuantizeReport(
        version=__version__,
        mode=str(options.mode),
        model=str(options.model),
        output=str(options.destination),
        method=str(choice.kept.method),
        percentile=options.percentile if choice.kept.method == Method.PERCENTILE else None,
        techniques=list(recipe.all_techniques),
        trials=list(choice.trials),
        fallback=choice.fallback,
        samples=outcome.statistics.samples,
        bytes_before=file_bytes(options.model),
        bytes_after=file_bytes(path),
        planned=len(recipe.plan.anchors),
        kernels=kernels,
        outputs=outputs,
        latency=latency,
        floats=_float_nodes(recipe, shapes),
        ranges=ranges,
        warnings=[
            *inputs.warnings,
            *choice.warnings,
            *result_warnings(options, kernels, outputs, latency),
        ],
        seconds={},
        notes=list(outcome.notes),
        frontier=list(choice.points),
        drop=Drop(*task.drop(options.model, path)) if task is not None else None,
    )
    digests = file_digests("float model", options.model) | file_digests("quantized file", path)
    if outcome.statistics.data:
        digests["calibration samples"] = outcome.statistics.data
    report = replace(report, origin=origin(digests))
    return _detailed(report, inputs, path, outcome, shapes).gated(options.limits)


def _detailed(
    report: QuantizeReport, inputs: Inputs, path: Path, outcome: Outcome, shapes: ShapeByName
) -> QuantizeReport:
    """Add the errors of layers and the histograms of tensors, if they are asked for."""
    recipe, timed = outcome.choice.recipe, timed_samples(inputs)
    if not inputs.options.details or not (timed or outcome.weights):
        return report
    named = [(sample.name, check_feeds(sample, inputs.specs)) for sample in timed]
    rows = layer_rows(recipe.model, recipe.plan, path, named, shapes, outcome.weights)
    tensors = histograms(recipe.plan, outcome.parameters, outcome.statistics)
    return replace(report, layers=rows, histograms=tensors)


def _float_nodes(recipe: Recipe, shapes: ShapeByName) -> list[FloatNodes]:
    """Group the nodes that stay float; LSTMs with int8 weights do not count."""
    return FloatNodes.group(
        (node.op_type, node.name or "", str(reason), node_macs(node, shapes))
        for node, reason in recipe.plan.floats.values()
        if node.name not in recipe.lstms
    )


def _shapes(inputs: Inputs, outcome: Outcome) -> ShapeByName:
    """Return the shapes of the model's values for the first validation sample, or by shape inference."""
    recipe, samples = outcome.choice.recipe, inputs.samples.validation
    if not samples:
        return concrete_shapes(recipe.model, None)
    plan = recipe.plan if inputs.options.mode == Mode.STATIC else Plan()
    return planned_shapes(recipe.model, plan, check_feeds(samples[0], inputs.specs))


def _verifying(inputs: Inputs, recipe: Recipe, shapes: ShapeByName) -> Executor:
    """Return where the written file is verified: here if samples are in order, or outputs are large."""
    moved = sum(4 * math.prod(shapes.get(value.name or "", ())) for value in recipe.model.graph.outputs)
    ordered = bool(inputs.feedback.states or unseeded_nodes(recipe.model))
    return IN_PROCESS if ordered or moved > MOST_MOVED else inputs.executor


def _inspect_and_run(
    inputs: Inputs, path: Path, outcome: Outcome, shapes: ShapeByName, trained: frozenset[str]
) -> tuple[Kernels, Outputs | None]:
    """Inspect the kernels that the runtime uses for a file while the file runs on the samples."""
    options, samples, recipe = inputs.options, inputs.samples, outcome.choice.recipe
    everything, further = samples.every, list[Sample]()
    if options.effort is Effort.FAST:
        everything = [*samples.validation, *samples.unseen]
    else:
        macs = sum(node_macs(node, shapes) for node in nodes_of(recipe.model))
        further = affordable(samples.further, inputs.feedback, macs)
    evidence = VerificationInputs(
        options.model,
        recipe.model,
        [*everything, *further],
        frozenset(sample.name for sample in [*samples.unseen, *further]),
        inputs.specs,
        inputs.feedback,
        None if options.allow_nonfinite else {*recipe.plan.tensors, *outcome.statistics.sketches},
        _verifying(inputs, recipe, shapes),
        trained,
    )
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(inspect_kernels, path, recipe.model, recipe.plan, shapes)
        if inputs.large:
            reading.result()  # one session at a time
        outputs = compare_outputs(path, evidence) if samples.validation else None
        return reading.result(), outputs
