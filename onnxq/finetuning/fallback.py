"""Mixed precision behind a training: as few nodes go back to float as the trained model needs."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from onnxq.calibration.methods import MethodOptions
from onnxq.data.samples import check_feeds
from onnxq.formats.recipe import Recipe
from onnxq.plan.plan import Plan
from onnxq.plan.products import following_bias
from onnxq.quantization.parameters import Parameters
from onnxq.search.accuracy_target import meet_target
from onnxq.search.candidates import Candidates, Variant
from onnxq.search.float_costs import float_costs_of
from onnxq.search.inputs import Inputs
from onnxq.search.trial import Outcome
from onnxq.search.validation import find_references
from onnxq.transforms.registry import weight_options
from onnxq.types import ACTIVATION_TYPES


@dataclass(frozen=True, eq=False)
class _Trained(Candidates):
    """Recipes with fewer integer nodes than the trained one.

    trained  its parameters
    """

    trained: Parameters = field(default_factory=Parameters)

    def parameters(self, recipe: Recipe) -> Parameters:
        """Return the trained parameters of the nodes that are still quantized."""
        plan, trained = recipe.plan, self.trained
        activations = dict(trained.activations)
        # with more nodes in float, a plan names other tensors of a chain of views
        for source in {tensor.source for tensor in plan.tensors.values()} - activations.keys():
            known = trained.activations.get(self.statistics.aliases.get(source, source))
            if known is not None:
                activations[source] = known
        nodes = set(_with_constants(plan))
        return Parameters(
            activations,
            {place: each for place, each in trained.constants.items() if place[0] in nodes},
            {place: each for place, each in trained.replaced.items() if place[0] in nodes},
        )


def _with_constants(plan: Plan) -> Iterator[str]:
    """Yield the names of the planned nodes, and of the nodes that add a planned product's bias."""
    for planned in plan.nodes.values():
        yield planned.name
        place = following_bias(planned)
        if place is not None:
            yield place[0].name or ""


def with_fallback(inputs: Inputs, trained: Outcome, other: Outcome) -> Outcome | None:
    """Leave as few nodes of a trained outcome in float as another outcome's accuracy takes.

    Args:
        inputs: of the command.
        trained: all of its nodes are quantized.
        other: nodes went back to float; nothing was trained.

    Returns:
        The trained outcome with nodes in float; None where it needs as many as the other one.
    """
    references, recipe, options = find_references(inputs), trained.choice.recipe, inputs.options
    fallback = other.choice.fallback
    if references is None or fallback is None:
        return None
    settings = inputs.settings
    if options.limits.min_sqnr is None and other.choice.recipe.plan.nodes:
        settings = replace(settings, target_db=max(settings.target_db, fallback.after_db))
    variant = Variant(recipe)
    candidates = _Trained(
        variant,
        trained.statistics,
        [recipe.method],
        MethodOptions(options.percentile, ACTIVATION_TYPES[options.activation_type]),
        weight_options(options, inputs.target.saturates),
        inputs.writer(),
        references,
        settings,
        trained=trained.parameters,
    )
    measured = candidates.measure(recipe)
    kept = replace(trained.choice.kept, sqnr_db=measured.sqnr_db, noise=measured.mean_noise)
    costs = float_costs_of(variant, check_feeds(inputs.samples.validation[0], inputs.specs), inputs.costs)
    choice = meet_target(inputs, candidates, replace(trained.choice, kept=kept), costs, None)
    references.budget.close()
    parameters = candidates.parameters(choice.recipe)
    written = candidates.writer.write(choice.recipe, parameters)
    found = choice.fallback
    share = found.mac_share if found is not None else 0.0
    reached_db = found.after_db if found is not None else references.bound_db(written)
    missed = reached_db < max(settings.target_db, options.limits.min_sqnr or 0.0)
    if missed or share >= fallback.mac_share or not choice.recipe.plan.nodes:
        return None
    return replace(trained, written=written, choice=choice, parameters=parameters)
