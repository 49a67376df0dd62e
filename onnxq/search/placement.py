"""Leave nodes in float where the cost model expects their float kernels to be faster."""

from collections.abc import Sequence

from onnxq.cost.placement import place, savings
from onnxq.data.samples import check_feeds
from onnxq.formats.recipe import Recipe
from onnxq.plan.reasons import SLOWER
from onnxq.plan.shapes import planned_shapes
from onnxq.search.inputs import Inputs

ALL_FLOAT = (
    "no node is expected to be faster in int8 {where}: the model stays float, "
    "its weights in half precision; --all-int8 quantizes it all the same"
)


def placed_by_model(inputs: Inputs) -> tuple[Recipe, tuple[str, ...]]:
    """Leave nodes in float that the cost model expects to be slower in int8; return warnings, too."""
    recipe = inputs.recipe()
    if not inputs.costs or not inputs.samples.calibration:
        return recipe, ()
    shapes = planned_shapes(
        inputs.model, inputs.plan, check_feeds(inputs.samples.calibration[0], inputs.specs)
    )
    floats = place(inputs.plan, shapes, inputs.costs).floats
    left = recipe.leaving(dict.fromkeys(floats, SLOWER)).plan
    if floats and savings(left, shapes, inputs.costs).too_little:
        floats += tuple(left.nodes)
    return without_slow(recipe, floats, f"on the target's CPUs ({inputs.target.name})")


def without_slow(recipe: Recipe, names: Sequence[str], where: str) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe with slow nodes in float under every plan, and warnings.

    Args:
        recipe: the recipe.
        names: the slow nodes.
        where: place where they are slow, for the warnings.
    """
    if not names:
        return recipe, ()
    recipe = recipe.keeping(dict.fromkeys(names, SLOWER))
    return recipe, () if recipe.plan.anchors else (ALL_FLOAT.format(where=where),)
