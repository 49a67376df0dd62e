"""Validation samples: the samples on which candidates are compared, and more of them near a target."""

from collections.abc import Sequence
from dataclasses import replace

from onnxq.comparison.feedback import chosen_sequences
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds
from onnxq.graph.edit import nodes_of
from onnxq.graph.macs import concrete_shapes, node_macs
from onnxq.search.budget import Budget, search_budget
from onnxq.search.inputs import Inputs
from onnxq.search.references import References


def find_references(inputs: Inputs) -> References | None:
    """Run the float model on the samples for the comparison of candidates; None where none is held out."""
    budget, settings = _budget(inputs), inputs.settings
    # half of the budget for the comparison of candidates
    affordable = max(settings.least_samples, int(min(budget.total, 1e9) / 2 / settings.candidates))
    count = min(settings.comparison_samples, affordable)
    held_out = chosen_sequences(inputs.samples.validation, inputs.feedback, count)
    others = _others(inputs, held_out)
    more = chosen_sequences(others, inputs.feedback, count) if len(held_out) < count else []
    return _references(inputs, held_out, more, budget)


def more_references(inputs: Inputs, few: References) -> References:
    """Run the float model on enough samples to decide whether a target is met."""
    settings = inputs.settings
    sample_bytes = max(1, few.size // len(few.names))
    wanted = settings.more_stateful_samples if inputs.feedback.states else settings.more_samples
    # an eighth of the remaining budget for each measurement
    affordable = int(min(few.budget.left, 1e9) / 8)
    count = max(len(few.names), min(wanted, settings.more_samples_bytes // sample_bytes, affordable))
    held_out = chosen_sequences(inputs.samples.validation, inputs.feedback, count)
    others = _others(inputs, held_out)
    missing = count - len(held_out)
    more = chosen_sequences(others, inputs.feedback, missing) if missing > 0 else []
    references = _references(inputs, held_out, more, few.budget)
    assert references is not None
    return references


def _others(inputs: Inputs, held_out: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in inputs.samples.calibration if sample not in held_out]


def _budget(inputs: Inputs) -> Budget:
    """Return the budget of the search, by the number of samples and the MACs of the model on one of them."""
    options, settings = inputs.options, inputs.settings
    if not inputs.samples.validation:
        return Budget()
    shapes = concrete_shapes(inputs.model, check_feeds(inputs.samples.validation[0], inputs.specs))
    macs = sum(node_macs(node, shapes) for node in nodes_of(inputs.model))
    asked = options.limits.min_sqnr is not None or options.limits.max_drop is not None
    passes = settings.search_passes * (3 if asked else 1)
    return search_budget(len(inputs.samples.every), macs, passes, settings.search_macs)


def _references(
    inputs: Inputs, held_out: Sequence[Sample], others: Sequence[Sample], budget: Budget
) -> References | None:
    if not held_out:
        return None
    verified = len(inputs.samples.every)
    found = References.of(inputs.model, held_out, others, inputs.specs, inputs.feedback, verified)
    budget.spend(len(found.names))
    return replace(found, budget=budget)
