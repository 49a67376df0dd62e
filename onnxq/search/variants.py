"""Forms of the model to compare: plain, and rewritten by transforms, with the moments of their layers' inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxq.calibration.collect import collect_moments
from onnxq.calibration.moments import LayerInput, Moments
from onnxq.data.samples import check_feeds, spread
from onnxq.formats.recipe import Recipe
from onnxq.options import Effort, Method
from onnxq.quantization.weights import layer_inputs
from onnxq.search.accuracy_target import loads_of
from onnxq.search.candidates import Variant
from onnxq.search.inputs import Inputs
from onnxq.search.mixed_precision import Load
from onnxq.transforms.algorithm import Algorithm
from onnxq.transforms.registry import transforms


def find_variants(inputs: Inputs, recipe: Recipe) -> list[Variant]:
    """Return the model as it is, and each rewritten form that touches enough of it; `recipe` quantizes everything."""
    calibration, settings = inputs.samples.calibration, inputs.settings
    if not calibration:
        return [Variant(recipe)]
    count = len(calibration) if settings.layer_samples is None else settings.layer_samples
    samples = spread(calibration, count)
    second = settings.second_moments
    moments = collect_moments(
        inputs.model, layer_inputs(recipe.plan).values(), samples, second=second, rows=settings.layer_rows
    )
    more = _more_samples(moments, len(samples), len(calibration)) if second else 0
    if more > len(samples):
        few = [layer for layer, found in moments.items() if found.rows < layer.wanted(1)]
        moments = {layer: found for layer, found in moments.items() if layer not in few}  # not both at a time
        moments |= collect_moments(inputs.model, few, spread(calibration, more), second=second)
    plain = Variant(recipe, moments)
    if inputs.options.stats or inputs.large:
        return [plain]
    algorithms = transforms(inputs.options.effort, inputs.options.without)
    loads = loads_of(plain, check_feeds(samples[0], inputs.specs), inputs.costs) if algorithms else {}
    rewritten = [_rewritten(inputs, plain, each, loads) for each in algorithms]
    return [plain, *(variant for variant in rewritten if variant is not None)]


def _more_samples(moments: Mapping[LayerInput, Moments], taken: int, available: int) -> int:
    """Return the samples that give all layers the rows they need; layers that need far more than there are do not count."""
    wanted = [-(-layer.wanted(1) * taken // found.rows) for layer, found in moments.items() if found.rows]
    return min(available, max((count for count in wanted if count <= 2 * available), default=0))


def _rewritten(
    inputs: Inputs, plain: Variant, algorithm: Algorithm, loads: Mapping[str, Load]
) -> Variant | None:
    """Return the form that a transform makes, where it touches enough of the planned MACs."""
    assert algorithm.rewrite is not None
    before = layer_inputs(plain.plan)
    within_reach = [name for name, layer in before.items() if algorithm.reaches(layer)]
    if sum(loads[name].macs for name in within_reach) < inputs.settings.transform_macs:
        return None
    found = algorithm.rewrite(plain.model, plain.plan, plain.moments, None)
    if found is None:
        return None
    inputs.store.hold(found.model)
    recipe = replace(plain.recipe.of_model(found.model), techniques=(algorithm.name,))
    after = layer_inputs(recipe.plan)
    touched = sum(load.macs for name, load in loads.items() if before.get(name) != after.get(name))
    if touched < inputs.settings.transform_macs:
        return None
    return Variant(recipe, found.moments, found.divided)


def to_be_compared(inputs: Inputs, variants: Sequence[Variant]) -> bool:
    """Tell whether the outputs decide anything."""
    options = inputs.options
    asked = options.limits.min_sqnr is not None or options.limits.max_drop is not None
    several = options.method is Method.AUTO or len(variants) > 1
    return options.effort is not Effort.FAST or several or asked
