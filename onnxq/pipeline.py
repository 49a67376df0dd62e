"""`onnxq quantize` and `onnxq calibrate`: the stages, in order.

prepare (load, normalize, plan, split samples) -> a mode (placement, calibration, search) -> write -> verify -> report
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from onnxq.calibration.collect import Collecting, collect
from onnxq.calibration.statistics import Statistics
from onnxq.data.samples import check_feeds
from onnxq.errors import DataError, OnnxqError
from onnxq.evaluation.layer_errors import histograms, layer_rows
from onnxq.evaluation.verification import (
    Kernels,
    Outputs,
    VerificationInputs,
    compare_outputs,
    inspect_kernels,
)
from onnxq.graph.files import check_output, digest, external_files, file_bytes, save, staged, weight_bytes
from onnxq.graph.macs import ShapeByName, concrete_shapes, node_macs
from onnxq.modes.auto import best_of_all
from onnxq.modes.dynamic import quantize_dynamic
from onnxq.modes.fp16 import narrow
from onnxq.modes.static import quantize_static
from onnxq.modes.weight_only import quantize_weights_only
from onnxq.options import Effort, Method, Mode, QuantizeOptions
from onnxq.plan.float_nodes import FloatNodes
from onnxq.plan.plan import Plan
from onnxq.plan.shapes import planned_shapes
from onnxq.quantization.parameters import Parameters
from onnxq.report.quantization import Drop, Latency, QuantizeReport
from onnxq.report.warnings import result_warnings
from onnxq.runtime.latency import medians_ms
from onnxq.runtime.memory import release_freed_memory
from onnxq.runtime.weights_on_disk import DISK_THRESHOLD
from onnxq.search.accuracy_target import Task
from onnxq.search.inputs import Inputs, prepare
from onnxq.search.references import References
from onnxq.search.settings import SearchSettings
from onnxq.search.trial import Outcome
from onnxq.search.validation import find_references
from onnxq.version import __version__

MODES: dict[Mode, Callable[[Inputs, References | None], Outcome]] = {
    Mode.DYNAMIC: quantize_dynamic,
    Mode.WEIGHTS: lambda inputs, _: quantize_weights_only(inputs),
    Mode.FP16: lambda inputs, _: narrow(inputs),
}
"""Modes that calibrate no ranges."""


def quantize(
    options: QuantizeOptions, task: Task | None = None, settings: SearchSettings | None = None
) -> QuantizeReport:
    """Quantize a model in the mode that is asked for, verify the file and report.

    Args:
        options: the user's options.
        task: labelled samples that `limits.max_drop` holds on.
        settings: thresholds of the accuracy search; those of the effort by default.

    Raises:
        OnnxqError: the model, the data or the output cannot be used; nothing was written.
    """
    check_output(options.destination, options.model, force=options.force)
    if options.mode is Mode.AUTO:
        return _best_mode(options, task)
    if options.measure and options.mode is not Mode.STATIC:
        raise OnnxqError(
            f"--measure plans static quantization, and the mode is {options.mode}: "
            "leave it out, or choose --mode static"
        )
    laps = _Laps()
    inputs = prepare(options, settings)
    laps.weights = weight_bytes(inputs.model)
    if task is not None:
        task.check(inputs.specs)
    if options.mode is Mode.STATIC:
        outcome = quantize_static(inputs, task, laps.end)
    else:
        references = find_references(inputs) if options.mode is Mode.DYNAMIC else None
        laps.end("prepare")
        outcome = MODES[options.mode](inputs, references)
        laps.end("quantize")
    with staged(options.destination) as building:
        save(_with_metadata(outcome, options), building)
        # the weights are on disk now
        outcome = replace(
            outcome,
            written=inputs.model,
            parameters=Parameters(outcome.parameters.activations),
        )
        laps.end("write")
        report = _verified(inputs, building, outcome, task)
        report = named_by_gates(report, building, options)
    laps.end("verify")
    return replace(report, seconds=laps.seconds)


def _best_mode(options: QuantizeOptions, task: Task | None) -> QuantizeReport:
    """Try every mode beside the destination and keep the best file."""
    if options.calib is None:
        raise DataError("--mode auto compares on samples: give a folder with --calib")
    try:
        folder = tempfile.TemporaryDirectory(prefix=".onnxq-", dir=options.destination.parent)
    except OSError as error:
        raise DataError(f"{options.destination}: cannot be written: {error.strerror}") from error
    with folder:
        report, source = best_of_all(options, Path(folder.name), task, quantize)
        report = named_by_gates(report, source, options)
        target = Path(report.output)
        for file in external_files(source.with_name(target.name)):
            shutil.move(file, target.parent / file.name)
        source.with_name(target.name).replace(target)
    return report


def named_by_gates(report: QuantizeReport, building: Path, options: QuantizeOptions) -> QuantizeReport:
    """Rename a file that fails a gate, so that nothing deploys it by mistake; returns the report of the file."""
    if options.keep_failed or all(gate.holds for gate in report.gates):
        return report
    name = f"{building.stem}.rejected{building.suffix}"
    building.rename(building.with_name(name))
    said = f"a gate failed: the file is {name}, not {building.name}; --keep-failed gives it that name all the same"
    output = str(options.destination.with_name(name))
    return replace(report, output=output, warnings=[*report.warnings, said])


def calibrate(options: QuantizeOptions, output: Path, shard: tuple[int, int] = (1, 1)) -> Statistics:
    """Write the statistics alone, to be reused with `--stats`.

    Args:
        options: as for `quantize`.
        output: .npz file to write.
        shard: (k, n): only the k-th of n consecutive parts of the samples; the parts merge.

    Raises:
        OnnxqError: the model, the data or the output cannot be used; nothing was written.
    """
    if output.exists() and not options.force:
        raise DataError(
            f"{output}: exists already: remove it, choose another with -o, or overwrite it with --force"
        )
    inputs = prepare(options)
    samples = sorted(inputs.samples.every, key=lambda sample: sample.name)
    k, n = shard
    start, stop = (len(samples) * (k - 1)) // n, (len(samples) * k) // n
    if start == stop:
        raise DataError(f"shard {k}/{n} of {len(samples)} samples is empty: use fewer shards")
    how = Collecting(start, options.allow_nonfinite, probes=inputs.probes)
    statistics = collect(inputs.model, inputs.plan.sources(), samples[start:stop], digest(options.model), how)
    statistics.save(output)
    return statistics


class _Laps:
    """Wall time of each stage, seconds."""

    def __init__(self) -> None:
        self.start, self.weights = time.perf_counter(), 0
        self.seconds: dict[str, float] = {}

    def end(self, stage: str) -> None:
        """Record the time since the last stage; large models give freed memory back."""
        if self.weights >= DISK_THRESHOLD:
            release_freed_memory()
        now = time.perf_counter()
        self.seconds[stage], self.start = now - self.start, now


def _with_metadata(outcome: Outcome, options: QuantizeOptions) -> ir.Model:
    """Say in the model how it was made; nothing that changes from run to run."""
    recipe, statistics = outcome.choice.recipe, outcome.statistics
    chosen = {
        "effort": options.effort,
        "exclude": options.exclude,
        "format": options.format,
        "include": options.include,
        "measure": options.measure,
        "method": recipe.method,
        "op_types": options.op_types,
        "per_channel": options.per_channel,
        "percentile": options.percentile,
        "samples": statistics.samples,
        "target": options.target,
        "techniques": recipe.all_techniques,
    }
    properties = outcome.written.metadata_props
    properties["onnxq.version"] = __version__
    properties["onnxq.options"] = json.dumps(chosen, sort_keys=True)
    properties["onnxq.model_sha256"] = statistics.model
    properties["onnxq.data_sha256"] = statistics.data
    return outcome.written


def _verified(inputs: Inputs, path: Path, outcome: Outcome, task: Task | None) -> QuantizeReport:
    """Compare the written file with the float model, time it, and make the report."""
    options, validation, choice = inputs.options, inputs.samples.validation, outcome.choice
    recipe = choice.recipe
    shapes = _shapes(inputs, outcome)
    kernels, outputs = _read_and_run(inputs, path, outcome, shapes)
    timed = [check_feeds(sample, inputs.specs) for sample in validation[: inputs.settings.timed]]
    latency = None
    if timed:
        seconds = 0.1 if options.effort is Effort.FAST else 0.5
        files = [options.model, path]
        latency = Latency(*medians_ms(files, timed, threads=1, seconds=seconds, together=not inputs.large))
    macs = {name: node_macs(node, shapes) for name, (node, _) in recipe.plan.floats.items()}
    floats = [
        (node.op_type, node.name or "", str(why), macs[node.name or ""])
        for node, why in recipe.plan.floats.values()
        if node.name not in recipe.lstms
    ]
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
        percentile=options.percentile if choice.kept.method is Method.PERCENTILE else None,
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
        floats=FloatNodes.group(floats),
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
    if options.details and timed:
        named = [(sample.name, feeds) for sample, feeds in zip(validation, timed, strict=False)]
        rows = layer_rows(recipe.model, recipe.plan, path, named, shapes)
        tensors = histograms(recipe.plan, outcome.parameters, outcome.statistics)
        report = replace(report, layers=rows, histograms=tensors)
    return report.gated(options.limits)


def _shapes(inputs: Inputs, outcome: Outcome) -> ShapeByName:
    """Shapes of the model's values for the first validation sample, or as far as inference knows them."""
    recipe, samples = outcome.choice.recipe, inputs.samples.validation
    if not samples:
        return concrete_shapes(recipe.model, None)
    plan = recipe.plan if inputs.options.mode is Mode.STATIC else Plan()
    return planned_shapes(recipe.model, plan, check_feeds(samples[0], inputs.specs))


def _read_and_run(
    inputs: Inputs, path: Path, outcome: Outcome, shapes: ShapeByName
) -> tuple[Kernels, Outputs | None]:
    """Read the kernels that the runtime makes of a file while the file runs over the samples."""
    options, samples, recipe = inputs.options, inputs.samples, outcome.choice.recipe
    everything = samples.every
    if options.effort is Effort.FAST:
        everything = [*samples.validation, *samples.unseen]
    evidence = VerificationInputs(
        options.model,
        recipe.model,
        everything,
        frozenset(sample.name for sample in samples.unseen),
        inputs.specs,
        inputs.feedback,
        None if options.allow_nonfinite else recipe.plan.tensors,
    )
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(inspect_kernels, path, recipe.model, recipe.plan, shapes)
        if inputs.large:
            reading.result()  # one session at a time
        outputs = compare_outputs(path, evidence) if samples.validation else None
        return reading.result(), outputs
