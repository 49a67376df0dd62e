"""The stages of `onnxq quantize`, `onnxq finetune` and `onnxq calibrate`, in order.

1. prepare: load, normalize and plan the model, split the samples
2. a mode: placement, calibration, search; then finetuning, where it is asked for
3. write
4. verify
5. report
"""

import json
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from onnxq.calibration.batches import Pass, in_shard
from onnxq.calibration.collect import Collecting, collect, collect_rows
from onnxq.calibration.methods import METHODS
from onnxq.calibration.statistics import Statistics
from onnxq.cluster.connection import executor_of
from onnxq.errors import DataError, OnnxqError
from onnxq.finetuning.checkpoint import check_checkpoint
from onnxq.finetuning.division import trained_on
from onnxq.finetuning.finetune import check_tuning, tuned, tunes_by_itself
from onnxq.formats.activations import replace_slow_activations
from onnxq.formats.compact import compact
from onnxq.formats.layer_norms import keep_sums_apart
from onnxq.formats.outer_products import multiply_outer
from onnxq.formats.writer import WRITERS
from onnxq.graph.files import (
    check_output,
    created_folder,
    digest,
    external_files,
    file_bytes,
    load,
    put_in_place,
    save,
    staged,
    weight_bytes,
)
from onnxq.graph.scratch import ScratchFolder
from onnxq.modes.auto import best_of_all
from onnxq.modes.dynamic import quantize_dynamic
from onnxq.modes.float_form import Shortfall, float_form
from onnxq.modes.fp16 import convert_to_bfloat16, convert_to_fp16
from onnxq.modes.last_word import last_word, latency_of, lost_boxes
from onnxq.modes.other_engines import for_other_engines
from onnxq.modes.static import quantize_static
from onnxq.modes.verified import verified
from onnxq.modes.weight_only import BITS, quantize_weights_only
from onnxq.options import (
    ActivationType,
    FinetuneOptions,
    Limits,
    Method,
    Mode,
    QuantizeOptions,
    Rounding,
    WeightType,
)
from onnxq.quantization.parameters import Parameters
from onnxq.quantization.weights import layer_inputs
from onnxq.report.quantization import QuantizeReport
from onnxq.runtime.blas import one_thread
from onnxq.runtime.memory import release_freed_memory
from onnxq.runtime.parallel import Executor
from onnxq.runtime.sessions import explained
from onnxq.runtime.status import activity
from onnxq.runtime.weights_on_disk import DISK_THRESHOLD
from onnxq.search.inputs import Inputs, prepare
from onnxq.search.references import References
from onnxq.search.settings import SearchSettings
from onnxq.search.task import Task
from onnxq.search.trial import Finetuning, Outcome
from onnxq.search.validation import find_references
from onnxq.transforms.registry import rounding_names, technique_names
from onnxq.transforms.smoothquant import smoothable
from onnxq.version import __version__

MODES: dict[str, Callable[[Inputs, References | None], Outcome]] = {
    Mode.DYNAMIC: quantize_dynamic,
    Mode.WEIGHTS: lambda inputs, _: (
        convert_to_bfloat16(inputs)
        if inputs.options.weight_type is WeightType.BFLOAT16
        else quantize_weights_only(inputs)
    ),
    Mode.FP16: lambda inputs, _: convert_to_fp16(inputs),
}
"""Modes that calibrate no ranges, by name; `dynamic` alone gets references, the validation samples."""


@one_thread()
def quantize(
    options: QuantizeOptions,
    task: Task | None = None,
    settings: SearchSettings | None = None,
    tuning: FinetuneOptions | None = None,
) -> QuantizeReport:
    """Quantize a model in the mode of the options, verify the file and report.

    Args:
        options: options of the user.
        task: labelled samples for `limits.max_drop`.
        settings: thresholds of the accuracy search; by default those of the effort.
        tuning: options of finetuning, for `Mode.STATIC` and `Mode.WEIGHTS`; None for none.

    Raises:
        OnnxqError: the model, the data or the output cannot be used; nothing was written.
    """
    _check_names(options)
    options = for_other_engines(options)
    _check_options(options)
    with executor_of(options.cluster) as executor:
        return _quantized(replace(options, cluster=executor), task, settings, tuning)


def _quantized(
    options: QuantizeOptions,
    task: Task | None,
    settings: SearchSettings | None,
    tuning: FinetuneOptions | None,
) -> QuantizeReport:
    """Quantize with the executor in the options."""
    executor = options.cluster
    if options.mode == Mode.AUTO:
        with created_folder(options.destination.parent):
            return _best_mode(options, task)
    laps = _Laps()
    with explained(options.model), activity(lambda: laps.current):
        inputs = prepare(replace(options, cluster=None), settings, executor)
        laps.weights = weight_bytes(inputs.model)
        if task is not None:
            task = task.on(executor)
            task.check(options.model, inputs.specs)
        outcome, finetuning = _in_its_mode(inputs, task, tuning, laps)
    with staged(options.destination, force=options.force) as building:
        with activity(laps.current):
            outcome = _written(inputs, building, outcome, finetuning)
        laps.end("write")
        with explained(options.model), activity(lambda: laps.current):
            latency, shortfall = last_word(inputs, building, outcome)
            if shortfall is not None:
                outcome, finetuning = _float_instead(inputs, building, outcome, shortfall), None
                latency = latency_of(inputs, building)
            trained = trained_on(inputs, outcome.choice.recipe)
            report = verified(inputs, building, outcome, latency, task, trained)
            shortfall = lost_boxes(inputs, outcome, report.outputs)
            if shortfall is not None:
                outcome, finetuning = _float_instead(inputs, building, outcome, shortfall), None
                report = verified(inputs, building, outcome, latency_of(inputs, building), task, frozenset())
        report = replace(report, finetuning=finetuning)
        report = named_by_gates(report, building, options)
    laps.end("verify")
    return replace(report, seconds=laps.seconds)


def _check_options(options: QuantizeOptions) -> None:
    """Raise an `OnnxqError` for outputs that exist, and options that conflict."""
    for target in (options.destination, *_rejected(options)):
        check_output(target, options.model, options.calib, force=options.force)
    if options.measure and options.mode not in (Mode.STATIC, Mode.AUTO):
        raise OnnxqError(
            f"--measure plans static quantization, and the mode is {options.mode}: "
            "leave it out, or choose --mode static"
        )


def _in_its_mode(
    inputs: Inputs, task: Task | None, tuning: FinetuneOptions | None, laps: "_Laps"
) -> tuple[Outcome, Finetuning | None]:
    """Run the mode, then finetuning; return both results."""
    mode = inputs.options.mode
    if tuning is not None:
        check_tuning(inputs, tuning)
    if mode == Mode.STATIC:
        outcome = quantize_static(inputs, task, laps.end)
    else:
        references = find_references(inputs) if mode == Mode.DYNAMIC else None
        laps.end("prepare")
        laps.current = f"quantizing: {mode}"
        outcome = MODES[mode](inputs, references)
        if references is not None:
            references.budget.close()
        laps.end("quantize")
    if tuning is None and not (mode == Mode.STATIC and tunes_by_itself(inputs)):
        return outcome, None
    laps.current = "finetuning"
    outcome, finetuning = tuned(inputs, outcome, tuning)
    laps.end("finetune")
    return outcome, finetuning


def _written(
    inputs: Inputs,
    path: Path,
    outcome: Outcome,
    finetuning: Finetuning | None = None,
    why_float: Shortfall | None = None,
) -> Outcome:
    """Write the file of an outcome; return the outcome without its weights, which are on disk now."""
    if not inputs.options.standard:
        replace_slow_activations(outcome.written)
        keep_sums_apart(outcome.written)
        multiply_outer(outcome.written)
    compact(outcome.written, inputs.stated)
    save(_with_metadata(inputs, outcome, finetuning, why_float), path, inputs.interface)
    return replace(outcome, written=inputs.model, parameters=Parameters(outcome.parameters.activations))


def _float_instead(inputs: Inputs, path: Path, outcome: Outcome, why: Shortfall) -> Outcome:
    """Write the float model with half-precision weights, or unchanged where that is larger."""
    options = inputs.options
    outcome = _written(inputs, path, float_form(inputs, outcome, why), why_float=why)
    form = "the model stays float, its weights in half precision"
    if file_bytes(path) > file_bytes(options.model) and not external_files(options.model):
        shutil.copyfile(options.model, path)
        form = "the file is the float model"
        # values of one name may differ from those of the normalized model
        recipe = replace(outcome.choice.recipe, model=load(options.model))
        outcome = replace(outcome, choice=replace(outcome.choice, recipe=recipe))
    message = f"{why.text}: {form}; --keep-int8 writes int8 all the same"
    choice = replace(outcome.choice, warnings=(*outcome.choice.warnings, message))
    return replace(outcome, choice=choice)


def _check_names(options: QuantizeOptions) -> None:
    """Raise an `OnnxqError` for a name that its registry does not have."""
    known: dict[str, Collection[str]] = {
        "mode": (Mode.STATIC, *MODES, Mode.AUTO),
        "method": (Method.AUTO, *METHODS),
        "format": WRITERS,
        "rounding": (Rounding.AUTO, *rounding_names()),
        "without": technique_names(),
    }
    given = [(option, getattr(options, option)) for option in known if option != "without"]
    for option, name in [*given, *(("without", name) for name in options.without)]:
        if name not in known[option]:
            raise OnnxqError(f"--{option} {name}: unknown name: choose one of {', '.join(known[option])}")


def _best_mode(options: QuantizeOptions, task: Task | None) -> QuantizeReport:
    """Try every mode in a folder beside the destination and keep the best file."""
    if options.calib is None:
        raise DataError("--mode auto compares on samples: give a folder with --calib")
    with ScratchFolder(options.destination.parent) as folder:
        report, source = best_of_all(options, folder, task, quantize)
        report = named_by_gates(report, source, options)
        name = Path(report.output).name
        put_in_place(source.parent, options.destination.parent, last=name, force=options.force)
    return report


def _rejected(options: QuantizeOptions) -> list[Path]:
    """Return the other file that may be written: the result's name if it fails a gate."""
    if options.keep_failed or options.limits == Limits():
        return []
    return [rejected_name(options.destination)]


def rejected_name(path: Path) -> Path:
    """Return the path of a file that fails a gate."""
    return path.with_name(f"{path.stem}.rejected{path.suffix}")


def named_by_gates(report: QuantizeReport, building: Path, options: QuantizeOptions) -> QuantizeReport:
    """Rename a file that fails a gate, against deployment by mistake; return its report."""
    if options.keep_failed or all(gate.holds for gate in report.gates):
        return report
    name = rejected_name(building).name
    building.rename(building.with_name(name))
    message = (
        f"a gate failed: the file is {name}, not {building.name}; "
        f"--keep-failed gives it the name {building.name} all the same"
    )
    output = str(options.destination.with_name(name))
    return replace(report, output=output, warnings=[*report.warnings, message])


def finetune(options: QuantizeOptions, tuning: FinetuneOptions, task: Task | None = None) -> QuantizeReport:
    """Quantize a model, train the result, verify the better of both files and report.

    Args:
        options: options of quantization, with `Mode.STATIC` or `Mode.WEIGHTS`; in the former the bits of the
            weights are the last of `tuning.bits`, in the latter those of `weight_type`.
        tuning: options of finetuning.
        task: labelled samples for `limits.max_drop`.

    Raises:
        OnnxqError: the model, the data or the output cannot be used; nothing was written.
    """
    if options.calib is None:
        raise DataError("finetuning trains on samples: give a folder with --calib")
    outputs = (options.destination, *_rejected(options))
    check_checkpoint(tuning.checkpoint, outputs, Path(options.calib))
    if options.mode == Mode.WEIGHTS:
        tuning = replace(tuning, bits=(_trained_bits(options),))
    else:
        options = replace(options, mode=Mode.STATIC, weight_bits=tuning.bits[-1])
    return quantize(options, task, tuning=tuning)


def _trained_bits(options: QuantizeOptions) -> int:
    """Return the bits of weights in blocks that finetuning trains.

    Raises:
        OnnxqError: it cannot train weights that are stored so.
    """
    if options.weight_type not in BITS:
        raise OnnxqError(f"--weight-type {options.weight_type}: finetuning trains int4 and int8")
    if options.standard or options.rounding == Rounding.AWQ:
        option = "--standard" if options.standard else "--rounding awq"
        raise OnnxqError(f"{option}: finetuning trains MatMulNBits as GPTQ rounds it: leave it out")
    return BITS[options.weight_type]


@one_thread()
def calibrate(options: QuantizeOptions, output: Path, shard: tuple[int, int] = (1, 1)) -> Statistics:
    """Write the calibration statistics alone, for `--stats`.

    Args:
        options: options as for `quantize`.
        output: .npz file to write.
        shard: (k, n) for the k-th of n consecutive parts of the samples; the statistics of parts can be
            merged.

    Raises:
        OnnxqError: the model, the data or the output cannot be used; nothing was written.
    """
    check_output(output, options.model, options.calib, force=options.force)
    with executor_of(options.cluster) as executor:
        return _calibrated(replace(options, cluster=None), output, shard, executor)


def _calibrated(
    options: QuantizeOptions, output: Path, shard: tuple[int, int], executor: Executor
) -> Statistics:
    """Calibrate with an executor."""
    with explained(options.model):
        inputs = prepare(options, executor=executor)
    samples = sorted(inputs.samples.every, key=lambda sample: sample.name)
    k, n = shard
    if not in_shard(len(samples), 1, shard):
        raise DataError(f"shard {k}/{n} of {len(samples)} samples is empty: use fewer shards")
    layers = layer_inputs(inputs.plan).values()
    channels = tuple(dict.fromkeys(layer.tensor for layer in smoothable(inputs.model, inputs.plan)))
    how = Collecting(
        allow_nonfinite=options.allow_nonfinite, probes=inputs.probes, channels=channels, shard=shard
    )
    found = collect(inputs.model, inputs.plan.sources(), samples, digest(options.model), how, inputs.executor)
    few = inputs.settings.layer_samples or len(samples)
    data = Pass(samples, "layers", inputs.executor, shard)
    found.rows = collect_rows(inputs.model, layers, data, few)
    found.save(output, force=options.force)
    return found


AFTER = {
    "prepare": "preparing forms of the model",
    "layers": "calibrating",
    "calibrate": "comparing candidates",
    "choose": "writing the file",
    "quantize": "writing the file",
    "finetune": "writing the file",
    "write": "verifying the file",
}
"""What follows each stage, for the terminal."""


class _Laps:
    """Wall time of each stage, seconds, and what is being done now."""

    def __init__(self) -> None:
        self.start, self.weights = time.perf_counter(), 0
        self.current = "preparing the model and the samples"
        self.seconds: dict[str, float] = {}

    def end(self, stage: str) -> None:
        """Record the time since the last stage; for large models, return freed memory to the system."""
        if self.weights >= DISK_THRESHOLD:
            release_freed_memory()
        now = time.perf_counter()
        self.seconds[stage], self.start = now - self.start, now
        self.current = AFTER.get(stage, stage)


def _with_metadata(
    inputs: Inputs,
    outcome: Outcome,
    finetuning: Finetuning | None = None,
    why_float: Shortfall | None = None,
) -> ir.Model:
    """Add metadata to the model: how it was made, without anything that differs from run to run.

    Args:
        inputs: the options of the user, and the CPUs of the target.
        outcome: the outcome; its model changes.
        finetuning: how the parameters were trained, if they were.
        why_float: why the model stays float after the int8 file was measured.
    """
    options, recipe, found = inputs.options, outcome.choice.recipe, outcome.statistics
    chosen: dict[str, object] = {
        "effort": options.effort,
        "exclude": options.exclude,
        "format": options.format,
        "include": options.include,
        "keep_int8": options.keep_int8,
        "measure": options.measure,
        "method": recipe.method,
        "op_types": options.op_types,
        "per_channel": options.per_channel,
        "percentile": options.percentile,
        "samples": found.samples,
        "target": inputs.target.identity,
        "techniques": recipe.all_techniques,
    }
    if options.activation_type is not ActivationType.UINT8:
        chosen["activation_type"] = options.activation_type
    if why_float is not None:
        chosen["float_because_int8_is"] = why_float.kind
    if finetuning is not None:
        chosen["finetuned"] = {"bits": finetuning.bits, "kept": finetuning.kept, "steps": finetuning.steps}
    properties = outcome.written.metadata_props
    properties["onnxq.version"] = __version__
    properties["onnxq.options"] = json.dumps(chosen, sort_keys=True)
    properties["onnxq.model_sha256"] = found.model
    properties["onnxq.data_sha256"] = found.data
    return outcome.written
