"""What is tried for a model - forms of it, ways to choose ranges and to round weights - and which of it is kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir
import onnxruntime as ort

from onnxq.calibration.collect import collect_moments
from onnxq.calibration.methods import METHODS, MethodOptions
from onnxq.calibration.moments import LayerInput, Moments
from onnxq.calibration.statistics import Statistics
from onnxq.comparison.errors import decibels
from onnxq.comparison.metrics import MAX_DB
from onnxq.data.samples import spread
from onnxq.errors import ModelError
from onnxq.formats.joint_products import few_rows
from onnxq.formats.writer import file_writer
from onnxq.inputs import Job, planned_shapes
from onnxq.options import Effort, Format, Method, QuantizeOptions, Target, Technique
from onnxq.plan.plan import Plan
from onnxq.plan.products import among_floats, has_bias
from onnxq.quantization.weights import WeightOptions, layer_inputs
from onnxq.search.accuracy_target import Task, hold_outputs, loads_of
from onnxq.search.candidates import Candidates, Choice, Variant, choose
from onnxq.search.fewer_scalings import with_fewer_divisions
from onnxq.search.mixed_precision import Load
from onnxq.search.references import References
from onnxq.transforms.equalization import equalize
from onnxq.transforms.smoothquant import Changed, smooth

WORTH_MACS = 0.05
"""Share of the planned MACs that smoothing has to reach to be tried."""
WORTH_DB = 0.5
"""What a technique that adds nodes to the graph has to gain."""
CLEAR_DB = 40.0
"""Outputs as close as this are as good as float, however much closer others may be."""
LAYER_SAMPLES = {Effort.FAST: 16, Effort.BALANCED: 100}
"""Calibration samples from which the layers' moments are taken, else all; more, for layers of which these have too few rows."""
LAYER_ROWS = {Effort.FAST: 0.25, Effort.BALANCED: 1.0, Effort.BEST: 2.0}
"""Rows of a layer's input, in units of what second moments of 8-bit weights need; means take fewer."""
GPTQ, BIAS = Technique.GPTQ, Technique.BIAS_CORRECTION
TECHNIQUES: dict[Effort, list[tuple[Technique, ...]]] = {
    Effort.FAST: [(BIAS,)],
    Effort.BALANCED: [(GPTQ, BIAS), (BIAS,), (GPTQ,)],
    Effort.BEST: [(GPTQ, BIAS), (BIAS,), (GPTQ,), ()],
}
"""Sets of techniques that are tried, the most promising first."""

FAST_METHODS = [Method.MSE, Method.PERCENTILE]
"""One of the two is within 0.5 dB of the best of all on each of 11 models (docs/decisions.md)."""
RUN_TIME = Technique.RUN_TIME_RANGES

CHANGES: dict[Technique, Callable[[ir.Model, Plan, Mapping[LayerInput, Moments]], Changed | None]] = {
    Technique.SMOOTHING: smooth,
    Technique.EQUALIZATION: equalize,
}
"""Techniques that change the float model first: matrix products, and convolutions."""


def find_variants(job: Job) -> list[Variant]:
    """The model as it is, and smoothed where that is expected to pay, with their layers' moments."""
    plain = Variant(job.model, job.plan, {})
    if not job.calibration:
        return [plain]
    second = job.options.effort is not Effort.FAST
    samples = spread(job.calibration, LAYER_SAMPLES.get(job.options.effort, len(job.calibration)))
    moments = collect_moments(
        job.model,
        layer_inputs(job.plan).values(),
        samples,
        second=second,
        rows=LAYER_ROWS[job.options.effort],
    )
    more = _more_samples(moments, len(samples), len(job.calibration)) if second else 0
    if more > len(samples):
        few = [layer for layer, found in moments.items() if found.rows < layer.wanted(1)]
        moments = {layer: found for layer, found in moments.items() if layer not in few}  # not both at a time
        moments |= collect_moments(job.model, few, spread(job.calibration, more), second=second)
    plain = Variant(job.model, job.plan, moments)
    if job.options.stats or job.large:
        return [plain]
    changes = [
        change
        for change in CHANGES
        if change not in job.options.without and (second or change is Technique.SMOOTHING)
    ]
    loads = loads_of(plain, samples[0].load(), job.costs) if changes else {}
    return [plain] + [variant for change in changes for variant in _changed(job, plain, change, loads)]


def _more_samples(moments: Mapping[LayerInput, Moments], taken: int, available: int) -> int:
    """Samples that give all layers as many rows as they want; those that want far more than there are do not count."""
    wanted = [-(-layer.wanted(1) * taken // found.rows) for layer, found in moments.items() if found.rows]
    return min(available, max((count for count in wanted if count <= 2 * available), default=0))


def _changed(job: Job, plain: Variant, change: Technique, loads: Mapping[str, Load]) -> list[Variant]:
    """The model changed by a technique, where it touches enough of what is to be computed."""
    before = layer_inputs(plain.plan)
    within_reach = [
        name for name, layer in before.items() if (layer.kernel is None) is (change is Technique.SMOOTHING)
    ]
    if sum(loads[name].macs for name in within_reach) < WORTH_MACS:
        return []
    found = CHANGES[change](job.model, job.plan, plain.moments)
    if found is None:
        return []
    job.move_to_disk(found.model)
    variant = Variant(found.model, job.replan(found.model), found.moments, (change,), found.divided)
    after = layer_inputs(variant.plan)
    touched = sum(load.macs for name, load in loads.items() if before.get(name) != after.get(name))
    return [variant] if touched >= WORTH_MACS else []


def _methods(options: QuantizeOptions) -> list[Method]:
    if options.method is not Method.AUTO:
        return [options.method]
    return FAST_METHODS if options.effort is Effort.FAST else list(METHODS)


def to_be_compared(job: Job, variants: Sequence[Variant]) -> bool:
    """Whether anything is left to be chosen by what it does to the outputs."""
    options = job.options
    asked = options.limits.min_sqnr is not None or options.limits.max_drop is not None
    return options.effort is not Effort.FAST or options.method is Method.AUTO or len(variants) > 1 or asked


def choose_best(
    job: Job,
    variants: Sequence[Variant],
    references: References | None,
    statistics: Statistics,
    task: Task | None = None,
) -> Choice:
    """Variant, method and techniques: those asked for, or the best on held-out samples."""
    options = job.options
    tried: list[tuple[Candidates, Choice]] = []
    for variant in variants:
        write = file_writer(job)
        weights = WeightOptions(
            options.per_channel, Target.VNNI if Technique.NO_SATURATION in options.without else options.target
        )
        others = (tried[0][0],) if tried else ()  # the plain one
        method = MethodOptions(options.percentile)
        methods = _methods(options)
        candidates = Candidates(variant, statistics, methods, method, weights, write, references, others)
        sets = TECHNIQUES[options.effort] if variant.moments else [()]
        missing = () if any(map(has_bias, variant.plan.anchors.values())) else (BIAS,)
        techniques = list(
            dict.fromkeys(tuple(t for t in each if t not in (*options.without, *missing)) for each in sets)
        )
        tried.append((candidates, choose(candidates, options.method, techniques)))
    candidates, choice = _preferred(tried)
    choice = replace(choice, trials=[trial for _, each in tried for trial in each.trials])
    candidates.forget_others(choice.kept.techniques)
    del tried, others
    asked = task is not None or options.limits.min_sqnr is not None
    fast = options.effort is Effort.FAST
    if references is not None and (asked or not fast or among_floats(choice.plan)):
        loads = loads_of(candidates.variant, job.held_out[0].load(), job.costs)
        choice = _with_ranges_at_run_time(job, candidates, choice, loads)
        if not fast:
            candidates, choice = with_fewer_divisions(job, candidates, choice)
        if Technique.FALLBACK not in options.without and (asked or not fast):
            choice = hold_outputs(job, candidates, choice, loads, task)
    found = choice.fallback.after_db if choice.fallback else choice.kept.sqnr_db
    if found is not None and found <= -MAX_DB:
        raise ModelError(
            f"{options.model}: onnxruntime {ort.__version__} cannot run its int8 form, or gets no numbers from it: "
            "leave more nodes float with --exclude, or try --format qoperator"
        )
    return choice


def _preferred(tried: Sequence[tuple[Candidates, Choice]]) -> tuple[Candidates, Choice]:
    """The closest form of the model; the plain one, which comes first, where the samples can hardly tell it from that."""

    def closeness(item: tuple[Candidates, Choice]) -> float:
        return decibels(item[1].kept.noise or 0.0) - WORTH_DB * (
            Technique.SMOOTHING in item[0].variant.techniques
        )

    (plain, as_it_is), (best, changed) = tried[0], max(tried, key=closeness)
    return tried[0] if plain.as_good(as_it_is.kept, best, changed.kept) else (best, changed)


def _with_ranges_at_run_time(
    job: Job, candidates: Candidates, choice: Choice, loads: Mapping[str, Load]
) -> Choice:
    """Let products among float operators find their ranges when they run, where that takes the outputs no farther from float.

    It is faster too, because the kernel adds the bias.
    """
    if job.options.format is not Format.QDQ or job.options.standard or RUN_TIME in job.options.without:
        return choice
    names = among_floats(choice.plan)
    if sum(loads[name].macs for name in names) < WORTH_MACS:
        return choice
    shapes = planned_shapes(choice.model, choice.plan, job.held_out[0].load())
    job.run_time, job.few_rows = names, few_rows(choice.plan, names, shapes)
    judged = candidates.judged(choice.plan, choice.kept)
    found = replace(choice.kept, sqnr_db=judged.sqnr_db, noise=judged.mean_noise, changes=judged.changes)
    choice = replace(
        choice, trials=[*choice.trials, replace(found, techniques=(*choice.kept.techniques, RUN_TIME))]
    )
    if decibels(judged.mean_noise) < min(decibels(choice.kept.noise or 0.0), CLEAR_DB):
        job.run_time = []
        return choice
    return replace(choice, kept=found)
