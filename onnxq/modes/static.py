"""`--mode static`: int8 weights and activations, their ranges calibrated before the file is written."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from onnxq.calibration.collect import COUNTED, Collecting, collect
from onnxq.calibration.statistics import Statistics, load_statistics
from onnxq.data.sample import Sample
from onnxq.errors import NothingToQuantize
from onnxq.formats.recipe import Recipe
from onnxq.graph.files import digest
from onnxq.modes.float_form import at_its_own_opset
from onnxq.modes.other_engines import WIDE_NOTE
from onnxq.options import ActivationType, Effort
from onnxq.plan.plan import Plan
from onnxq.search.best_recipe import choose_best
from onnxq.search.candidates import Candidates, Variant
from onnxq.search.inputs import Inputs
from onnxq.search.lstm import quantized_lstms
from onnxq.search.measured_placement import Measured, placed_by_measurement
from onnxq.search.placement import placed_by_model
from onnxq.search.references import References
from onnxq.search.task import Task
from onnxq.search.trial import Outcome
from onnxq.search.unseen import without_unseen
from onnxq.search.validation import find_references
from onnxq.search.variants import find_variants, to_be_compared

COUNTED_FAST = COUNTED // 2
"""Values of a tensor that `--effort fast` counts per sample: over a hundred samples they suffice."""

Lap = Callable[[str], None]
"""Ends a stage: its time is reported under the given name."""


def quantize_static(inputs: Inputs, task: Task | None, lap: Lap) -> Outcome:
    """Place, calibrate, search, and write the model of the best recipe.

    Raises:
        OnnxqError: the model or the samples cannot be used, or nothing is left to quantize.
    """
    # placement and LSTMs; the later stages change neither
    placed = _placed(inputs)
    inputs, recipe = replace(inputs, costs=placed.costs), placed.recipe
    references = find_references(inputs) if inputs.wanted_lstms() else None
    recipe = _with_lstms(inputs, recipe, references)
    lap("prepare")
    # forms of the model, and one calibration pass for all of them
    loaded = _loaded(inputs)
    variants = find_variants(inputs, recipe, loaded)
    lap("layers")
    statistics = _statistics(inputs, variants, loaded)
    del loaded
    statistics.rows.clear()
    variants, unseen = without_unseen(inputs.options, variants, statistics)
    lap("calibrate")
    # the search
    if references is None and to_be_compared(inputs, variants):
        references = find_references(inputs)
    candidates, choice = choose_best(inputs, variants, references, statistics, task)
    recipe = choice.recipe
    candidates = _with_validation_samples(inputs, candidates, recipe, variants)
    if references is not None:
        references.budget.close()
    statistics = candidates.statistics
    lap("choose")
    # the file
    del variants, references
    if not recipe.plan.nodes and not recipe.lstms:
        recipe = at_its_own_opset(inputs, recipe)
    parameters = candidates.parameters(recipe)
    del candidates  # its weights are as large as the model
    written = inputs.writer().write(recipe, parameters)
    # the report
    warnings = [*placed.warnings, *unseen, *choice.warnings]
    if statistics.nonfinite:
        warnings.insert(0, f"{statistics.nonfinite} NaN or infinite values were left out of the statistics")
    points = choice.points or placed.points
    choice = replace(choice, recipe=recipe, warnings=tuple(warnings), points=points)
    notes = () if inputs.options.activation_type is ActivationType.UINT8 else (WIDE_NOTE,)
    return Outcome(written, choice, statistics, parameters, notes)


def _placed(inputs: Inputs) -> Measured:
    """Leave slow nodes in float: by measurement, by the cost model, or not at all."""
    options = inputs.options
    if options.measure:
        return placed_by_measurement(inputs)
    recipe, warnings = placed_by_model(inputs) if options.skip_slow_nodes else (inputs.recipe(), ())
    return Measured(recipe, inputs.costs, warnings=warnings)


def _with_lstms(inputs: Inputs, recipe: Recipe, references: References | None) -> Recipe:
    """Return the recipe with int8 LSTMs where the validation samples or the user allow them."""
    if references is None and inputs.options.dynamic_lstm is None:
        return recipe  # the outputs cannot be measured
    forms, refused = quantized_lstms(inputs, references)
    if refused and not forms and not recipe.plan.nodes and not recipe.kept:
        name, reason = next(iter(refused.items()))
        raise NothingToQuantize(f"{inputs.options.model}: nothing to quantize: LSTM '{name}': {reason}")
    recipe = replace(recipe, lstms=forms)
    return recipe.keeping(refused) if refused else recipe


def _loaded(inputs: Inputs) -> Statistics | None:
    """Load and merge the statistics of earlier passes; None without any."""
    if not inputs.options.stats:
        return None
    model_digest = digest(inputs.options.model)
    statistics, *others = [load_statistics(path, model_digest) for path in inputs.options.stats]
    for other in others:
        statistics.merge(other)
    _add_views(statistics, [inputs.plan])
    return statistics


def _add_views(statistics: Statistics, plans: Sequence[Plan]) -> None:
    """Note which tensors are views of others."""
    for plan in plans:
        statistics.aliases |= {tensor.name: tensor.source for tensor in plan.tensors.values()}


def _statistics(inputs: Inputs, variants: Sequence[Variant], loaded: Statistics | None) -> Statistics:
    """Calibrate the tensors of all forms in one pass, or take the statistics of earlier passes."""
    if loaded is not None:
        statistics = loaded
    else:
        names = dict.fromkeys(name for variant in variants for name in variant.plan.sources())
        statistics = _collect(
            inputs,
            variants,
            list(names),
            inputs.samples.calibration,
            Statistics(digest(inputs.options.model)),
        )
    _add_views(statistics, [inputs.plan, *(variant.plan for variant in variants)])
    return statistics


def _collect(
    inputs: Inputs,
    variants: Sequence[Variant],
    names: Sequence[str],
    samples: Sequence[Sample],
    before: Statistics,
) -> Statistics:
    """Collect statistics of tensors of any form, of the samples that follow those of `before`."""
    # the last form without divided tensors contains the values of the others
    model = [variant.model for variant in variants if not variant.divided][-1]
    divided = {name: one for variant in variants for name, one in variant.divided.items() if name in names}
    options = inputs.options
    counted = COUNTED_FAST if options.effort is Effort.FAST else COUNTED
    probes = () if before.samples else inputs.probes
    how = Collecting(before.samples, options.allow_nonfinite, divided, counted, probes)
    whole = [name for name in names if name not in divided]
    return collect(model, whole, samples, before.model, how, inputs.executor)


def _with_validation_samples(
    inputs: Inputs, candidates: Candidates, recipe: Recipe, variants: Sequence[Variant]
) -> Candidates:
    """Return the candidates with statistics of the validation samples, too, for the tensors of a recipe.

    Nothing is chosen on these samples any more, and rare values may be among them.
    """
    calibrated = set(map(id, inputs.samples.calibration))
    more = [sample for sample in inputs.samples.validation if id(sample) not in calibrated]
    found, sources = candidates.statistics, recipe.plan.sources()
    if inputs.options.stats or not more or not sources:
        return candidates
    # with more nodes in float, a plan names other tensors of a chain of views
    known = found.sketches
    names = list(dict.fromkeys(name if name in known else found.aliases[name] for name in sources))
    later = _collect(inputs, variants, names, more, found)
    # other samples of other tensors: no pass that parts of it could be merged to
    statistics = replace(found, sketches={name: known[name] for name in later.sketches}, contents=b"")
    statistics.merge(later)
    wider = candidates.with_statistics(statistics)
    target_db = max(candidates.settings.target_db, inputs.options.limits.min_sqnr or 0.0)
    return candidates if _lost(candidates, wider, recipe, target_db) else wider


def _lost(candidates: Candidates, wider: Candidates, recipe: Recipe, target_db: float) -> bool:
    """Tell whether the outputs meet the target with the ranges of the search, and with wider ones do not."""
    references = candidates.references
    if references is None:
        return False
    if references.bound_db(wider.model(recipe)) >= target_db:
        return False
    return references.bound_db(candidates.model(recipe)) >= target_db
