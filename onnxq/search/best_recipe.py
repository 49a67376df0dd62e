"""The accuracy search: form, techniques and method, then run-time ranges, scalings and mixed precision."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxq.calibration.methods import MethodOptions
from onnxq.calibration.statistics import Statistics
from onnxq.comparison.errors import decibels
from onnxq.comparison.metrics import MAX_DB
from onnxq.data.samples import check_feeds
from onnxq.errors import ModelError
from onnxq.formats.joint_products import few_rows
from onnxq.formats.recipe import Recipe
from onnxq.options import Effort, Method, QuantizeOptions, Technique
from onnxq.plan.products import among_floats, has_bias, products_in_loops
from onnxq.plan.shapes import planned_shapes
from onnxq.runtime.status import activity
from onnxq.search.accuracy_target import meet_target
from onnxq.search.candidates import Candidates, Variant, choose, first_method
from onnxq.search.fewer_scalings import with_fewer_scalings
from onnxq.search.float_costs import float_costs_of
from onnxq.search.inputs import Inputs
from onnxq.search.mixed_precision import FloatCost
from onnxq.search.references import References
from onnxq.search.settings import SearchSettings
from onnxq.search.task import Task
from onnxq.search.trial import Choice, Trial
from onnxq.search.unseen import allows_run_time_ranges
from onnxq.transforms.registry import technique_sets, weight_options
from onnxq.types import ACTIVATION_TYPES, Feeds


def choose_best(
    inputs: Inputs,
    variants: Sequence[Variant],
    references: References | None,
    statistics: Statistics,
    task: Task | None = None,
) -> tuple[Candidates, Choice]:
    """Search for the best recipe on the validation samples.

    Args:
        inputs: options, model and samples.
        variants: forms of the model, the plain one first.
        references: validation samples; without them the first candidate is kept.
        statistics: statistics of all forms' tensors.
        task: labelled samples for `--max-drop`.

    Returns:
        The candidates of the chosen form, which compute its parameters, and the choice.

    Raises:
        ModelError: the runtime cannot run any quantized form.
    """
    options, fast = inputs.options, inputs.options.effort is Effort.FAST
    # form, techniques and method
    candidates, choice = _chosen(inputs, variants, references, statistics)
    candidates.forget_others(choice.kept.techniques)
    # run-time ranges, scalings and mixed precision
    if references is not None:
        choice = _with_ranges_in_each_iteration(inputs, candidates, choice)
    asked = task is not None or options.limits.min_sqnr is not None
    if references is not None and (asked or not fast or among_floats(choice.recipe.plan)):
        float_costs = float_costs_of(candidates.variant, _first_feeds(inputs), inputs.costs)
        choice = _with_run_time_ranges(inputs, candidates, choice, float_costs)
        if not fast:
            candidates, choice = with_fewer_scalings(candidates, choice)
        if Technique.FALLBACK not in options.without and (asked or not fast):
            choice = meet_target(inputs, candidates, choice, float_costs, task)
    sqnr_db = choice.fallback.after_db if choice.fallback else choice.kept.sqnr_db
    if sqnr_db is not None and sqnr_db <= -MAX_DB and references is not None:
        message = references.complaint(candidates.model(choice.recipe)) or "its outputs are no numbers"
        raise ModelError(
            f"{options.model}: its int8 form cannot be used: {message}: "
            "leave more nodes float with --exclude, or try --format qoperator"
        )
    return candidates, choice


def _chosen(
    inputs: Inputs, variants: Sequence[Variant], references: References | None, statistics: Statistics
) -> tuple[Candidates, Choice]:
    """Choose the form of the model with the first method and techniques, then those of this form."""
    options, settings = inputs.options, inputs.settings
    tried: list[tuple[Candidates, Choice]] = []
    writer = inputs.writer()  # all forms have the same embeddings, which it quantizes once
    for variant in variants:
        if tried and references is not None and not references.budget.left:
            break
        candidates = Candidates(
            variant,
            statistics,
            _methods(options, settings),
            MethodOptions(options.percentile, ACTIVATION_TYPES[options.activation_type]),
            weight_options(options, inputs.target.saturates),
            writer,
            references,
            settings,
            (tried[0][0],) if tried else (),  # the plain form
            executor=inputs.executor,
        )
        first = candidates.recipe(first_method(options.method), _technique_sets(inputs, variant)[0])
        tried.append((candidates, candidates.best([first])))
    candidates = _preferred(tried)
    choice = choose(candidates, options.method, _technique_sets(inputs, candidates.variant))
    others = [trial for each, of in tried if each is not candidates for trial in of.trials]
    return candidates, replace(choice, trials=[*others, *choice.trials])


def _methods(options: QuantizeOptions, settings: SearchSettings) -> Sequence[str]:
    return settings.methods if options.method == Method.AUTO else [options.method]


def _technique_sets(inputs: Inputs, variant: Variant) -> list[tuple[str, ...]]:
    if not variant.moments:
        return [()]
    options, plain = inputs.options, inputs.settings.all_techniques
    biases = any(map(has_bias, variant.plan.anchors.values()))
    return technique_sets(options.effort, options.without, biases=biases, plain=plain) or [()]


def _preferred(tried: Sequence[tuple[Candidates, Choice]]) -> Candidates:
    """Return the form closest to float; the plain one where it is within one standard error of that."""

    def adjusted_db(item: tuple[Candidates, Choice]) -> float:
        candidates, choice = item
        handicap = candidates.settings.min_technique_gain_db
        smoothed = Technique.SMOOTHING in candidates.variant.recipe.techniques
        return decibels(choice.kept.noise or 0.0) - handicap * smoothed

    (plain, plain_choice), (best, best_choice) = tried[0], max(tried, key=adjusted_db)
    plain_is_as_good = plain.as_good(plain_choice.kept, best, best_choice.kept)
    return plain if plain_is_as_good else best


def _with_run_time_ranges(
    inputs: Inputs, candidates: Candidates, choice: Choice, float_costs: Mapping[str, FloatCost]
) -> Choice:
    """Use run-time ranges for products between float operators, where the outputs come no farther from float.

    Run-time ranges are also faster there, because the kernel adds the bias.
    """
    settings = inputs.settings
    if not allows_run_time_ranges(inputs.options):
        return choice
    plan = choice.recipe.plan
    names = [name for name in among_floats(plan) if name not in choice.recipe.run_time]
    if sum(float_costs[name].macs for name in names) < settings.min_transform_macs:
        return choice
    shapes = planned_shapes(choice.recipe.model, plan, _first_feeds(inputs))
    run_time = tuple(dict.fromkeys((*choice.recipe.run_time, *names)))
    recipe = replace(choice.recipe, run_time=run_time, few_rows=few_rows(plan, names, shapes))
    choice, kept = _tried_at_run_time(candidates, choice, recipe)
    if decibels(kept.noise or 0.0) < min(decibels(choice.kept.noise or 0.0), settings.as_float_db):
        return choice
    return replace(choice, recipe=recipe, kept=kept)


def _with_ranges_in_each_iteration(inputs: Inputs, candidates: Candidates, choice: Choice) -> Choice:
    """Find the ranges of products in Loops anew in each iteration, where one range ruins the outputs.

    A state may grow or fade: then the first or last iteration sets the range of all.
    """
    settings, reached = inputs.settings, choice.kept.sqnr_db
    if reached is None or reached >= settings.target_db or not allows_run_time_ranges(inputs.options):
        return choice
    names = products_in_loops(choice.recipe.model, choice.recipe.plan)
    if not names:
        return choice
    recipe = choice.recipe.finding(names)
    choice, kept = _tried_at_run_time(candidates, choice, recipe)
    if (kept.sqnr_db or 0.0) < reached + settings.min_gain_db:
        return choice
    return replace(choice, recipe=recipe, kept=kept)


def _tried_at_run_time(candidates: Candidates, choice: Choice, recipe: Recipe) -> tuple[Choice, Trial]:
    """Measure a recipe with more ranges at run time; return the choice with the trial, and the trial."""
    with activity("trying ranges at run time"):
        measured = candidates.measure(recipe)
    noise = measured.mean_noise
    kept = replace(choice.kept, sqnr_db=measured.sqnr_db, noise=noise, changes=measured.changes)
    trial = replace(kept, techniques=(*choice.kept.techniques, Technique.RUN_TIME_RANGES))
    return replace(choice, trials=[*choice.trials, trial]), kept


def _first_feeds(inputs: Inputs) -> Feeds:
    """Load the first validation sample, as the model takes it."""
    return check_feeds(inputs.samples.validation[0], inputs.specs)
