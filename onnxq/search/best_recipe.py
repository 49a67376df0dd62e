"""The accuracy search: form, method and techniques first, then run-time ranges, scalings and mixed precision."""

from collections.abc import Mapping, Sequence
from dataclasses import replace


from onnxq.calibration.methods import MethodOptions
from onnxq.calibration.statistics import Statistics
from onnxq.comparison.errors import decibels
from onnxq.comparison.metrics import MAX_DB
from onnxq.errors import ModelError
from onnxq.formats.joint_products import few_rows
from onnxq.formats.writer import Writer
from onnxq.options import Effort, Format, Method, QuantizeOptions, Target, Technique
from onnxq.plan.plan import Plan
from onnxq.plan.products import among_floats, has_bias
from onnxq.plan.shapes import planned_shapes
from onnxq.quantization.weights import WeightOptions
from onnxq.search.accuracy_target import Task, loads_of, meet_target
from onnxq.search.candidates import Candidates, Variant, choose
from onnxq.search.fewer_scalings import with_fewer_scalings
from onnxq.search.inputs import Inputs
from onnxq.search.mixed_precision import Load
from onnxq.search.references import References
from onnxq.search.settings import SearchSettings
from onnxq.search.trial import Choice
from onnxq.transforms.registry import technique_sets


def choose_best(
    inputs: Inputs,
    variants: Sequence[Variant],
    references: References | None,
    statistics: Statistics,
    task: Task | None = None,
) -> tuple[Candidates, Choice]:
    """Search for the best recipe on the validation samples; returns the candidates that make its numbers, too.

    Args:
        inputs: options, model and samples.
        variants: forms of the model, the plain one first.
        references: validation samples; without them the first candidate is kept.
        statistics: of all forms' tensors.
        task: labelled samples that `--max-drop` holds on.

    Raises:
        ModelError: the runtime cannot run any quantized form.
    """
    options, fast = inputs.options, inputs.options.effort is Effort.FAST
    candidates, choice = _preferred(_tried_variants(inputs, variants, references, statistics))
    candidates.forget_others(choice.kept.techniques)
    asked = task is not None or options.limits.min_sqnr is not None
    if references is not None and (asked or not fast or among_floats(choice.recipe.plan)):
        loads = loads_of(candidates.variant, inputs.samples.validation[0].load(), inputs.costs)
        choice = _with_ranges_at_run_time(inputs, candidates, choice, loads)
        if not fast:
            candidates, choice = with_fewer_scalings(candidates, choice)
        if Technique.FALLBACK not in options.without and (asked or not fast):
            choice = meet_target(inputs, candidates, choice, loads, task)
    found = choice.fallback.after_db if choice.fallback else choice.kept.sqnr_db
    if found is not None and found <= -MAX_DB and references is not None:
        said = references.complaint(candidates.model(choice.recipe)) or "its outputs are no numbers"
        raise ModelError(
            f"{options.model}: its int8 form cannot be used: {said}: "
            "leave more nodes float with --exclude, or try --format qoperator"
        )
    return candidates, choice


def _tried_variants(
    inputs: Inputs, variants: Sequence[Variant], references: References | None, statistics: Statistics
) -> list[tuple[Candidates, Choice]]:
    """Compare methods and techniques for each form of the model."""
    options, settings = inputs.options, inputs.settings
    safe = Technique.NO_SATURATION not in options.without
    weights = WeightOptions(options.per_channel, options.target if safe else Target.VNNI)
    tried: list[tuple[Candidates, Choice]] = []
    for variant in variants:
        candidates = Candidates(
            variant,
            statistics,
            _methods(options, settings),
            MethodOptions(options.percentile),
            weights,
            Writer(options.format, options.standard, None if inputs.large else {}),
            references,
            settings,
            (tried[0][0],) if tried else (),  # the plain form
        )
        sets = _technique_sets(options, settings, variant.plan) if variant.moments else [()]
        tried.append((candidates, choose(candidates, options.method, sets)))
    return tried


def _methods(options: QuantizeOptions, settings: SearchSettings) -> Sequence[Method]:
    return settings.methods if options.method is Method.AUTO else [options.method]


def _technique_sets(options: QuantizeOptions, settings: SearchSettings, plan: Plan) -> list[tuple[str, ...]]:
    biases = any(map(has_bias, plan.anchors.values()))
    return technique_sets(options.effort, options.without, biases=biases, plain=settings.all_techniques)


def _preferred(tried: Sequence[tuple[Candidates, Choice]]) -> tuple[Candidates, Choice]:
    """Return the closest form; the plain one, which comes first, where the samples can hardly tell them apart."""

    def closeness(item: tuple[Candidates, Choice]) -> float:
        candidates, choice = item
        handicap = candidates.settings.technique_db
        smoothed = Technique.SMOOTHING in candidates.variant.recipe.techniques
        return decibels(choice.kept.noise or 0.0) - handicap * smoothed

    (plain, as_it_is), (best, changed) = tried[0], max(tried, key=closeness)
    candidates, choice = tried[0] if plain.as_good(as_it_is.kept, best, changed.kept) else (best, changed)
    return candidates, replace(choice, trials=[trial for _, each in tried for trial in each.trials])


def _with_ranges_at_run_time(
    inputs: Inputs, candidates: Candidates, choice: Choice, loads: Mapping[str, Load]
) -> Choice:
    """Find the ranges of products among float operators at run time, where the outputs come no farther from float.

    It is faster too, because the kernel adds the bias.
    """
    options, settings, technique = inputs.options, inputs.settings, Technique.RUN_TIME_RANGES
    if options.format is not Format.QDQ or options.standard or technique in options.without:
        return choice
    plan = choice.recipe.plan
    names = among_floats(plan)
    if sum(loads[name].macs for name in names) < settings.transform_macs:
        return choice
    shapes = planned_shapes(choice.recipe.model, plan, inputs.samples.validation[0].load())
    recipe = replace(choice.recipe, run_time=tuple(names), few_rows=few_rows(plan, names, shapes))
    judged = candidates.judged(recipe)
    found = replace(choice.kept, sqnr_db=judged.sqnr_db, noise=judged.mean_noise, changes=judged.changes)
    trial = replace(found, techniques=(*choice.kept.techniques, technique))
    choice = replace(choice, trials=[*choice.trials, trial])
    if decibels(judged.mean_noise) < min(decibels(choice.kept.noise or 0.0), settings.clear_db):
        return choice
    return replace(choice, recipe=recipe, kept=found)
