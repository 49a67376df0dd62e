"""Forms of the model to compare: plain and rewritten by transforms, with the moments of layers' inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxq.calibration.collect import MomentOptions, collect_moments
from onnxq.calibration.divided import divided_sketch
from onnxq.calibration.moments import LayerInput, Moments, moments_of_rows
from onnxq.calibration.statistics import Statistics
from onnxq.data.samples import check_feeds, spread
from onnxq.formats.recipe import Recipe
from onnxq.options import Effort, Method
from onnxq.quantization.weights import layer_inputs
from onnxq.search.candidates import Variant
from onnxq.search.float_costs import float_costs_of
from onnxq.search.inputs import Inputs
from onnxq.search.mixed_precision import FloatCost
from onnxq.transforms.algorithm import Algorithm
from onnxq.transforms.registry import transforms


def find_variants(inputs: Inputs, recipe: Recipe, loaded: Statistics | None) -> list[Variant]:
    """Return the plain form of the model, and each rewritten form that changes enough of it.

    Args:
        inputs: options, model and samples.
        recipe: recipe that quantizes everything.
        loaded: statistics of earlier passes, which get those of the tensors that a form divides; None where
            the samples are calibrated now.
    """
    calibration = inputs.samples.calibration
    if loaded is not None and loaded.rows:
        layers, second = layer_inputs(recipe.plan).values(), inputs.settings.second_moments
        plain = Variant(recipe, moments_of_rows(loaded.rows, layers, second=second))
    else:
        plain = Variant(recipe, _moments(inputs, recipe)) if calibration else Variant(recipe)
    if not calibration or inputs.large:  # without samples nothing is compared
        return [plain]
    algorithms = transforms(inputs.options.effort, inputs.options.without)
    float_costs = (
        float_costs_of(plain, check_feeds(calibration[0], inputs.specs), inputs.costs) if algorithms else {}
    )
    rewritten = [_rewritten(inputs, plain, each, float_costs) for each in algorithms]
    found = [variant for variant in rewritten if variant is not None]
    return [plain, *(variant for variant in found if loaded is None or _derived(variant, loaded))]


def _derived(variant: Variant, loaded: Statistics) -> bool:
    """Derive statistics of the tensors that a form divides; tell whether all of its tensors have some."""
    for name, divided in variant.divided.items():
        sketch = divided_sketch(loaded, divided)
        if sketch is not None:
            loaded.sketches[name] = sketch
    return all(loaded.sketch(name) is not None for name in variant.plan.sources())


def _moments(inputs: Inputs, recipe: Recipe) -> Mapping[LayerInput, Moments]:
    """Collect the moments of the layers' inputs over calibration samples."""
    calibration, settings = inputs.samples.calibration, inputs.settings
    count = len(calibration) if settings.layer_samples is None else settings.layer_samples
    samples = spread(calibration, count)
    second = settings.second_moments
    how = MomentOptions(second, rows=settings.layer_rows)
    layers = layer_inputs(recipe.plan).values()
    moments = collect_moments(inputs.model, layers, samples, how, inputs.executor)
    more = _more_samples(moments, len(samples), len(calibration)) if second else 0
    if more > len(samples):
        few = [layer for layer, found in moments.items() if found.rows < layer.wanted(1)]
        moments = {layer: found for layer, found in moments.items() if layer not in few}  # frees memory
        moments |= collect_moments(
            inputs.model, few, spread(calibration, more), MomentOptions(second), inputs.executor
        )
    return moments


def _more_samples(moments: Mapping[LayerInput, Moments], taken: int, available: int) -> int:
    """Return the number of samples that gives all layers the rows they need.

    Layers that need more than twice the available samples do not count.
    """
    wanted = [-(-layer.wanted(1) * taken // found.rows) for layer, found in moments.items() if found.rows]
    return min(available, max((count for count in wanted if count <= 2 * available), default=0))


def _rewritten(
    inputs: Inputs, plain: Variant, algorithm: Algorithm, float_costs: Mapping[str, FloatCost]
) -> Variant | None:
    """Return the form that a transform makes, where it changes enough of the planned MACs."""
    assert algorithm.rewrite is not None
    before = layer_inputs(plain.plan)
    reachable = [name for name, layer in before.items() if algorithm.reaches(layer)]
    if sum(float_costs[name].macs for name in reachable) < inputs.settings.min_transform_macs:
        return None
    found = algorithm.rewrite(plain.model, plain.plan, plain.moments, None)
    if found is None:
        return None
    inputs.store.offload(found.model)
    recipe = replace(plain.recipe.of_model(found.model), techniques=(algorithm.name,))
    after = layer_inputs(recipe.plan)
    changed = sum(cost.macs for name, cost in float_costs.items() if before.get(name) != after.get(name))
    if changed < inputs.settings.min_transform_macs:
        return None
    return Variant(recipe, found.moments, found.divided)


def to_be_compared(inputs: Inputs, variants: Sequence[Variant]) -> bool:
    """Tell whether any choice depends on a measurement of the outputs."""
    options = inputs.options
    asked = options.limits.min_sqnr is not None or options.limits.max_drop is not None
    several = options.method == Method.AUTO or len(variants) > 1
    return options.effort is not Effort.FAST or several or asked
