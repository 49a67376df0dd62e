"""What is tried for a model - forms of it, ways to choose ranges and to round weights - and which of it is kept."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir
import onnxruntime as ort

from onnxq.calibration.collect import collect_moments
from onnxq.calibration.methods import METHODS, MethodOptions
from onnxq.calibration.moments import LayerInput, Moments
from onnxq.calibration.statistics import Statistics
from onnxq.choice import QUICK, Candidates, Choice, Variant, choose, keep_outputs
from onnxq.data.samples import spread
from onnxq.data.source import Sample
from onnxq.equalize import equalize
from onnxq.errors import ModelError
from onnxq.fallback import Load
from onnxq.formats.half import narrow_weights
from onnxq.formats.lstm import dynamic_lstms, quantize_lstms
from onnxq.formats.qdq import write_qdq
from onnxq.formats.qoperator import write_qoperator
from onnxq.formats.run_time import among_floats, quantize_at_run_time
from onnxq.formats.tables import looked_up, quantize_tables
from onnxq.job import Job
from onnxq.macs import concrete_shapes, node_macs
from onnxq.metrics import MAX_DB
from onnxq.model.edit import sizes
from onnxq.operators import Role
from onnxq.options import Effort, Format, Method
from onnxq.parameters import Parameters
from onnxq.plan import Plan
from onnxq.references import References
from onnxq.schemes import Feeds
from onnxq.smooth import Changed, smooth
from onnxq.weights import WeightOptions, layer_inputs

WORTH_MACS = 0.05
"""Share of the planned MACs that smoothing has to reach to be tried."""
LSTM_DB = 25.0
"""Least SQNR of the outputs with one LSTM's weights in int8."""
WORTH_DB = 0.5
"""What a technique that adds nodes to the graph has to gain."""
LAYER_SAMPLES = 48
"""Calibration samples from which the layers' moments are taken; all, for layers of which these have too few rows."""
JUDGES = 16
"""Samples over which candidates are compared: held-out ones, and calibration samples where those are too few."""
TECHNIQUES: dict[Effort, list[tuple[str, ...]]] = {
    Effort.FAST: [("bias_correction",)],
    Effort.BALANCED: [("gptq", "bias_correction"), ("bias_correction",)],
    Effort.BEST: [("gptq", "bias_correction"), ("bias_correction",), ("gptq",), ()],
}
"""Sets of techniques that are tried, the most promising first."""

RUN_TIME = "ranges_at_run_time"
"""Name of the technique that finds products' ranges when they run."""

Writer = Callable[[ir.Model, Plan, Parameters], ir.Model]
CHANGES: dict[str, Callable[[ir.Model, Plan, Mapping[LayerInput, Moments]], Changed | None]] = {
    "smoothing": smooth,
    "equalization": equalize,
}
"""Techniques that change the float model first."""
WRITERS: dict[Format, Writer] = {
    Format.QDQ: write_qdq,
    Format.QOPERATOR: write_qoperator,
}


def find_judges(job: Job) -> list[Sample]:
    """Samples over which candidates are compared, held-out ones first."""
    held_out = spread(job.held_out, JUDGES)
    others = [sample for sample in job.calibration if sample not in held_out]
    return held_out + (spread(others, JUDGES - len(held_out)) if held_out and len(held_out) < JUDGES else [])


def file_writer(job: Job) -> Writer:
    """The format's writer, and what is done to the file beside, as far as it is decided when a file is written."""
    write = WRITERS[job.options.format]
    tables = any(looked_up(job.model))

    def written(model: ir.Model, plan: Plan, parameters: Parameters) -> ir.Model:
        result = write(model, plan, parameters)
        if job.run_time:
            quantize_at_run_time(result, plan, [name for name in job.run_time if name in plan.nodes])
        if job.lstms:
            quantize_lstms(result, job.lstms)
        if tables:
            quantize_tables(result)
        if job.slow:
            narrow_weights(result, job.slow)
        return result

    return written


def good_lstms(job: Job, references: References | None) -> list[str]:
    """The LSTMs whose int8 weights, and inputs quantized step by step, leave the outputs as they are."""
    names = dynamic_lstms(job.model) if job.options.dynamic_lstm else []
    good = []
    for name in names:
        alone = job.model.clone()
        quantize_lstms(alone, [name])
        if references is None or references.inner_sqnr_db(alone, QUICK) >= LSTM_DB:
            good.append(name)
        else:
            job.kept[name] = "its inputs have a range that 8 bits a step cannot hold"
            job.plan.floats[name] = job.plan.floats[name][0], job.kept[name]
    return good


def find_variants(job: Job) -> list[Variant]:
    """The model as it is, and smoothed where that is expected to pay, with their layers' moments."""
    plain = Variant(job.model, job.plan, {})
    if not job.calibration:
        return [plain]
    best, second = job.options.effort is Effort.BEST, job.options.effort is not Effort.FAST
    samples = job.calibration if best else spread(job.calibration, LAYER_SAMPLES)
    moments = collect_moments(job.model, layer_inputs(job.plan).values(), samples, second=second, rows=2 if best else 1)
    few = [layer for layer, found in moments.items() if found.rows < layer.wanted(1)] if second else []
    if few and len(samples) < len(job.calibration):
        moments |= collect_moments(job.model, few, job.calibration, second=second)
    plain = Variant(job.model, job.plan, moments)
    if job.options.stats or job.large:
        return [plain]
    changes = [change for change in CHANGES if second or change == "smoothing"]
    return [plain] + [variant for change in changes for variant in _changed(job, plain, change, samples[0].load())]


def _changed(job: Job, plain: Variant, change: str, feeds: Feeds) -> list[Variant]:
    """The model changed by a technique, where it touches enough of what is to be computed."""
    found = CHANGES[change](job.model, job.plan, plain.moments)
    if found is None:
        return []
    variant = Variant(found.model, job.replan(found.model), found.moments, (change,), found.divided)
    before, after, loads = layer_inputs(plain.plan), layer_inputs(variant.plan), _loads(plain, feeds)
    touched = sum(load.macs for name, load in loads.items() if before.get(name) != after.get(name))
    return [variant] if touched >= WORTH_MACS else []


def choose_best(job: Job, variants: Sequence[Variant], references: References | None, statistics: Statistics) -> Choice:
    """Variant, method and techniques: those asked for, or the best on held-out samples."""
    options = job.options
    tried: list[tuple[Candidates, Choice]] = []
    for variant in variants:
        write = file_writer(job)
        weights = WeightOptions(options.per_channel, options.target)
        others = tried[0][0] if tried else None  # the plain one
        method = MethodOptions(options.percentile)
        methods = list(METHODS) if options.method is Method.AUTO else [options.method]
        candidates = Candidates(variant, statistics, methods, method, weights, write, references, others)
        techniques = TECHNIQUES[options.effort] if variant.moments else [()]
        tried.append((candidates, choose(candidates, options.method, techniques)))
    candidates, choice = max(tried, key=lambda item: (item[1].kept.sqnr_db or 0.0) - WORTH_DB * ("smoothing" in item[0].variant.techniques))
    choice = replace(choice, trials=[trial for _, each in tried for trial in each.trials])
    if options.effort is not Effort.FAST and references is not None:
        variant = candidates.variant
        loads = _loads(variant, job.held_out[0].load())
        choice = _with_ranges_at_run_time(job, candidates, choice, loads)
        choice = keep_outputs(candidates, choice, loads, lambda kept: job.replan(variant.model, kept))
    found = choice.fallback.after_db if choice.fallback else choice.kept.sqnr_db
    if found is not None and found <= -MAX_DB:
        raise ModelError(
            f"{options.model}: onnxruntime {ort.__version__} cannot run its int8 form, or gets no numbers from it: "
            "leave more nodes float with --exclude, or try --format qoperator"
        )
    return choice


def _with_ranges_at_run_time(job: Job, candidates: Candidates, choice: Choice, loads: Mapping[str, Load]) -> Choice:
    """Let products among float operators find their ranges when they run, where that takes the outputs no farther from float.

    It is faster too, because the kernel adds the bias.
    """
    if job.options.format is not Format.QDQ or job.options.standard:
        return choice
    names = among_floats(choice.plan)
    if sum(loads[name].macs for name in names) < WORTH_MACS:
        return choice
    job.run_time = names
    found = candidates.quality(choice.plan, choice.kept)
    trial = replace(choice.kept, techniques=(*choice.kept.techniques, RUN_TIME), sqnr_db=found)
    choice = replace(choice, trials=[*choice.trials, trial])
    if found < (choice.kept.sqnr_db or 0.0):
        job.run_time = []
        return choice
    return replace(choice, kept=replace(choice.kept, sqnr_db=found))


def _loads(variant: Variant, feeds: Feeds) -> dict[str, Load]:
    """Each planned product's share of the planned MACs and of the planned weights."""
    shapes = concrete_shapes(variant.model, feeds)
    anchors = {name: planned.node for name, planned in variant.plan.nodes.items() if planned.row.role is Role.ANCHOR}
    macs = {name: node_macs(node, shapes) for name, node in anchors.items()}
    weights = {name: math.prod(sizes(node.inputs[1]) or ()) for name, node in anchors.items()}
    whole = max(1, sum(macs.values())), max(1, sum(weights.values()))
    return {name: Load(macs[name] / whole[0], weights[name] / whole[1]) for name in anchors}
