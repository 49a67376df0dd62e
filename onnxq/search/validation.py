"""Validation samples: the samples on which candidates are compared, and more of them near a bound."""

from collections.abc import Sequence

from onnxq.comparison.feedback import chosen_sequences
from onnxq.data.sample import Sample
from onnxq.search.inputs import Inputs
from onnxq.search.references import References


def find_references(inputs: Inputs) -> References | None:
    """Run the float model over the samples on which candidates are compared; None where none is held out."""
    count = inputs.settings.comparison_samples
    held_out = chosen_sequences(inputs.samples.validation, inputs.feedback, count)
    others = _others(inputs, held_out)
    more = chosen_sequences(others, inputs.feedback, count) if len(held_out) < count else []
    return _references(inputs, held_out, more)


def more_references(inputs: Inputs, few: References) -> References:
    """Run the float model over as many samples as it takes to say whether a bound holds."""
    settings = inputs.settings
    each = max(1, few.size // len(few.samples))
    wanted = settings.more_stateful_samples if inputs.feedback.states else settings.more_samples
    count = max(len(few.samples), min(wanted, settings.more_samples_bytes // each))
    held_out = chosen_sequences(inputs.samples.validation, inputs.feedback, count)
    others = _others(inputs, held_out)
    left = count - len(held_out)
    found = _references(inputs, held_out, chosen_sequences(others, inputs.feedback, left) if left > 0 else [])
    assert found is not None
    return found


def _others(inputs: Inputs, held_out: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in inputs.samples.calibration if sample not in held_out]


def _references(inputs: Inputs, held_out: Sequence[Sample], others: Sequence[Sample]) -> References | None:
    if not held_out:
        return None
    evidence = len(inputs.samples.every)
    return References.of(inputs.model, held_out, others, inputs.specs, inputs.feedback, evidence)
