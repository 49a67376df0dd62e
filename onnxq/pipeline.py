"""`onnxq quantize` and `onnxq calibrate`: the stages, in order."""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from onnxq.calibration.collect import COUNTED, Collecting, collect
from onnxq.calibration.statistics import Statistics, load_statistics
from onnxq.data.samples import check_feeds
from onnxq.errors import DataError, ModelError, OnnxqError
from onnxq.evaluation.layer_errors import histograms, layer_rows
from onnxq.evaluation.verification import VerificationInputs, compare_outputs, inspect_kernels
from onnxq.formats.writer import file_writer
from onnxq.graph.edit import nodes_of
from onnxq.graph.files import check_output, digest, file_bytes, load, save, staged, weight_bytes
from onnxq.graph.macs import concrete_shapes, node_macs
from onnxq.inputs import Job, planned_shapes, prepare
from onnxq.modes.dynamic import quantize_dynamic
from onnxq.modes.fp16 import narrow
from onnxq.modes.products import Made
from onnxq.modes.weight_only import quantize_weights_only
from onnxq.normalize.passes import normalize
from onnxq.options import Effort, Method, Mode, QuantizeOptions, Technique
from onnxq.plan.float_nodes import FloatNodes
from onnxq.plan.plan import Plan
from onnxq.quantization.parameters import Parameters
from onnxq.report.quantization import Drop, Latency, QuantizeReport
from onnxq.report.warnings import result_warnings
from onnxq.runtime.latency import medians_ms
from onnxq.runtime.memory import give_back
from onnxq.runtime.weights_on_disk import SPILL
from onnxq.search.accuracy_target import TIMED, Task
from onnxq.search.candidates import Choice, Trial, Variant
from onnxq.search.lstm import quantized_lstms
from onnxq.search.measured_placement import place_measured
from onnxq.search.references import References
from onnxq.search.strategy import RUN_TIME, choose_best, find_variants, to_be_compared
from onnxq.search.validation import find_references
from onnxq.version import __version__

COUNTED_FAST = COUNTED // 2
"""Values of a tensor that `--effort fast` counts a sample: over a hundred samples they are as good."""


def quantize(options: QuantizeOptions, task: Task | None = None) -> QuantizeReport:
    """Quantize a model statically and verify the file that was written.

    Raises:
        OnnxqError: the model, the data or the output cannot be used; nothing was written.
    """
    check_output(options.destination, options.model, force=options.force)
    if options.measure and options.mode is not Mode.STATIC:
        raise OnnxqError(
            f"--measure plans static quantization, and the mode is {options.mode}: leave it out, or choose --mode static"
        )
    clock = _Clock()
    job = prepare(options)
    if task is not None:
        task.check(job.specs)
    if options.mode is not Mode.STATIC:
        return _without_ranges(job, clock, task)
    if options.measure:
        place_measured(job)
    references = find_references(job) if job.wanted_lstms() else None
    _choose_lstms(job, references)
    clock.lap(job, "prepare")
    variants = find_variants(job)
    clock.lap(job, "layers")
    statistics = _statistics(job, variants)
    clock.lap(job, "calibrate")
    if references is None and to_be_compared(job, variants):
        references = find_references(job)
    choice = choose_best(job, variants, references, statistics, task)
    clock.lap(job, "choose")
    del variants
    if not choice.plan.nodes and not job.lstms:
        choice = _at_its_own_opset(job, choice)
    job.model, job.plan = choice.model, choice.plan
    with staged(options.destination) as building:
        save(_quantized(job, choice, statistics), building)
        choice = replace(
            choice, parameters=Parameters(choice.parameters.activations)
        )  # the weights are on disk now
        clock.lap(job, "write")
        report = placed_by_gates(_verify(job, building, choice, statistics, task), building, options)
    clock.lap(job, "verify")
    return report


def placed_by_gates(report: QuantizeReport, building: Path, options: QuantizeOptions) -> QuantizeReport:
    """The report; a file that fails a gate gets another name, so that nothing deploys it by mistake."""
    if options.keep_failed or all(gate.holds for gate in report.gates):
        return report
    name = f"{building.stem}.rejected{building.suffix}"
    building.rename(building.with_name(name))
    said = f"a gate failed: the file is {name}, not {building.name}; --keep-failed gives it that name all the same"
    return replace(report, output=str(options.destination.with_name(name)), warnings=[*report.warnings, said])


def _choose_lstms(job: Job, references: References | None) -> None:
    if references is None and job.options.dynamic_lstm is None:
        return  # nobody could tell whether the outputs hold
    job.lstms, refused = quantized_lstms(job, references)
    if refused and not job.lstms and not job.plan.nodes and not job.kept:
        name, reason = next(iter(refused.items()))
        raise ModelError(f"{job.options.model}: nothing to quantize: LSTM '{name}': {reason}")
    job.kept |= refused
    for name, reason in refused.items():
        job.plan.floats[name] = job.plan.floats[name][0], reason


def _at_its_own_opset(job: Job, choice: Choice) -> Choice:
    """A model that stays float is not lifted: the runtime fuses other nodes then, and may be slower."""
    model = normalize(load(job.options.model), lift=False)
    reasons = {name: why for name, (_, why) in choice.plan.floats.items()}
    floats = {
        node.name or "": (node, reasons[node.name or ""]) for node in nodes_of(model) if node.name in reasons
    }
    return replace(choice, model=model, plan=Plan(floats=floats))


def _without_ranges(job: Job, clock: "_Clock", task: Task | None) -> QuantizeReport:
    """The modes that need no calibrated ranges."""
    options = job.options
    references = find_references(job) if options.mode is Mode.DYNAMIC else None
    clock.lap(job, "prepare")
    made = MODES[options.mode](job, references)
    if not made.plan.nodes and not made.stored:
        reasons = [f"{node.op_type} '{node.name}': {why}" for node, why in made.plan.floats.values()]
        raise ModelError(
            f"{options.model}: nothing to quantize: {reasons[0] if reasons else 'it has no MatMul or Gemm'}"
        )
    clock.lap(job, "quantize")
    job.plan = made.plan
    statistics = Statistics(digest(options.model), sketches={})
    statistics.samples = len(job.calibration)
    kept = Trial(options.method, tuple(made.techniques), None)
    choice = Choice(kept, made.model, made.plan, Parameters(), [])
    with staged(options.destination) as building:
        _record(made.model, job, choice, statistics)
        save(made.model, building)
        clock.lap(job, "write")
        report = placed_by_gates(_verify(job, building, choice, statistics, task), building, options)
    clock.lap(job, "verify")
    return replace(report, notes=made.notes)


MODES: dict[Mode, Callable[[Job, References | None], Made]] = {
    Mode.DYNAMIC: quantize_dynamic,
    Mode.WEIGHTS: lambda job, _: quantize_weights_only(job),
    Mode.FP16: lambda job, _: narrow(job),
}
"""Modes that need no calibrated ranges."""


def calibrate(options: QuantizeOptions, output: Path, shard: tuple[int, int] = (1, 1)) -> Statistics:
    """The statistics alone, to be reused with `--stats`.

    Args:
        options: as for `quantize`.
        output: .npz file to write.
        shard: (k, n): only the k-th of n consecutive parts of the samples; the parts merge.
    """
    if output.exists() and not options.force:
        raise DataError(
            f"{output}: exists already: remove it, choose another with -o, or overwrite it with --force"
        )
    job = prepare(replace(options, give_back=False))  # what stays float is decided where they are used
    samples = sorted(job.samples, key=lambda sample: sample.name)
    k, n = shard
    start, stop = (len(samples) * (k - 1)) // n, (len(samples) * k) // n
    if start == stop:
        raise DataError(f"shard {k}/{n} of {len(samples)} samples is empty: use fewer shards")
    names = job.plan.sources()
    statistics = collect(
        job.model,
        names,
        samples[start:stop],
        digest(options.model),
        Collecting(start, options.allow_nonfinite),
    )
    statistics.save(output)
    return statistics


class _Clock:
    def __init__(self) -> None:
        self.start = time.perf_counter()

    def lap(self, job: Job, stage: str) -> None:
        if weight_bytes(job.model) >= SPILL:  # a model of a size that is worth the time
            give_back()
        now = time.perf_counter()
        job.seconds[stage] = now - self.start
        self.start = now


def _statistics(job: Job, variants: Sequence[Variant]) -> Statistics:
    """One pass for all variants."""
    options = job.options
    model_digest = digest(options.model)
    if options.stats:
        statistics, *others = [load_statistics(path, model_digest) for path in options.stats]
        for other in others:
            statistics.merge(other)
    else:
        # the last of those that divide nothing has the others' values too
        model = [variant.model for variant in variants if not variant.divided][-1]
        divided = {name: one for variant in variants for name, one in variant.divided.items()}
        names = dict.fromkeys(
            name for variant in variants for name in variant.plan.sources() if name not in divided
        )
        how = Collecting(
            0, options.allow_nonfinite, divided, COUNTED_FAST if options.effort is Effort.FAST else COUNTED
        )
        statistics = collect(model, list(names), job.calibration, model_digest, how)
    if statistics.nonfinite:
        job.warnings.append(f"{statistics.nonfinite} NaN or infinite values were left out of the statistics")
    statistics.aliases |= job.aliases
    for variant in variants:
        statistics.aliases |= {tensor.name: tensor.source for tensor in variant.plan.tensors.values()}
    return statistics


def _quantized(job: Job, choice: Choice, statistics: Statistics) -> ir.Model:
    model = file_writer(job)(choice.model, choice.plan, choice.parameters)
    _record(model, job, choice, statistics)
    return model


def _techniques(job: Job, choice: Choice) -> tuple[str, ...]:
    beside = {RUN_TIME: bool(job.run_time), Technique.SPLIT: any(form.split for form in job.lstms.values())}
    return (*choice.kept.techniques, *(each for each, used in beside.items() if used))


def _record(model: ir.Model, job: Job, choice: Choice, statistics: Statistics) -> None:
    """Say in the file how it was made; nothing that changes from run to run."""
    options = job.options
    chosen = {
        "effort": options.effort,
        "exclude": options.exclude,
        "format": options.format,
        "include": options.include,
        "measure": options.measure,
        "method": choice.kept.method,
        "op_types": options.op_types,
        "per_channel": options.per_channel,
        "percentile": options.percentile,
        "samples": statistics.samples,
        "target": options.target,
        "techniques": _techniques(job, choice),
    }
    model.metadata_props["onnxq.version"] = __version__
    model.metadata_props["onnxq.options"] = json.dumps(chosen, sort_keys=True)
    model.metadata_props["onnxq.model_sha256"] = statistics.model
    model.metadata_props["onnxq.data_sha256"] = statistics.data


def _verify(
    job: Job, path: Path, choice: Choice, statistics: Statistics, task: Task | None
) -> QuantizeReport:
    options = job.options
    feeds = check_feeds(job.held_out[0], job.specs) if job.held_out else None
    shapes = (
        concrete_shapes(job.model, feeds)
        if feeds is None
        else planned_shapes(job.model, job.plan if options.mode is Mode.STATIC else Plan(), feeds)
    )
    everything = job.samples if options.effort is not Effort.FAST else [*job.held_out, *job.unseen]
    evidence = VerificationInputs(
        options.model,
        job.model,
        everything,
        frozenset(sample.name for sample in job.unseen),
        job.specs,
        job.feedback,
        None if options.allow_nonfinite else job.plan.tensors,
    )
    with ThreadPoolExecutor(1) as pool:  # what the runtime made of the file is read while the file runs
        reading = pool.submit(inspect_kernels, path, job.model, job.plan, shapes)
        if job.large:
            reading.result()  # not two sessions at a time
        outputs = compare_outputs(path, evidence) if job.held_out else None
        kernels = reading.result()
    latency = None
    timed = [check_feeds(sample, job.specs) for sample in job.held_out[:TIMED]]
    seconds = 0.1 if options.effort is Effort.FAST else 0.5
    details = options.details and bool(timed)
    if timed:
        latency = Latency(
            *medians_ms([options.model, path], timed, threads=1, seconds=seconds, together=not job.large)
        )
    job.warnings += result_warnings(options, kernels, outputs, latency)
    macs = {name: node_macs(node, shapes) for name, (node, _) in job.plan.floats.items()}
    floats = [(node, why) for node, why in job.plan.floats.values() if node.name not in job.lstms]
    return QuantizeReport(
        version=__version__,
        mode=str(options.mode),
        model=str(options.model),
        output=str(options.destination),
        method=str(choice.kept.method),
        percentile=options.percentile if choice.kept.method is Method.PERCENTILE else None,
        techniques=list(_techniques(job, choice)),
        trials=choice.trials,
        fallback=choice.fallback,
        samples=statistics.samples,
        bytes_before=file_bytes(options.model),
        bytes_after=file_bytes(path),
        planned=len(job.plan.anchors),
        kernels=kernels,
        outputs=outputs,
        latency=latency,
        floats=FloatNodes.group(
            (node.op_type, node.name or "", why, macs[node.name or ""]) for node, why in floats
        ),
        ranges={
            name: (s.minimum, s.maximum)
            for name, s in statistics.sketches.items()
            if name in job.plan.tensors
        },
        warnings=job.warnings,
        seconds=job.seconds,
        gates=[],
        frontier=job.points,
        drop=Drop(*task.drop(options.model, path)) if task is not None else None,
        layers=layer_rows(
            job.model,
            job.plan,
            path,
            [(s.name, f) for s, f in zip(job.held_out, timed, strict=False)],
            shapes,
        )
        if details
        else [],
        histograms=histograms(job.plan, choice.parameters, statistics) if details else [],
    ).gated(options.limits)
