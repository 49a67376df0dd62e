"""Validation samples: the samples on which candidates are compared, and more of them near a target."""

from collections.abc import Sequence

from onnxq.comparison.feedback import chosen_sequences
from onnxq.data.sample import Sample
from onnxq.search.inputs import Inputs
from onnxq.search.references import References


def find_references(inputs: Inputs) -> References | None:
    """Run the float model on the samples for the comparison of candidates; None where none is held out."""
    count = inputs.settings.comparison_samples
    held_out = chosen_sequences(inputs.samples.validation, inputs.feedback, count)
    others = _others(inputs, held_out)
    more = chosen_sequences(others, inputs.feedback, count) if len(held_out) < count else []
    return _references(inputs, held_out, more)


def more_references(inputs: Inputs, few: References) -> References:
    """Run the float model on enough samples to decide whether a target is met."""
    settings = inputs.settings
    sample_bytes = max(1, few.size // len(few.samples))
    wanted = settings.more_stateful_samples if inputs.feedback.states else settings.more_samples
    count = max(len(few.samples), min(wanted, settings.more_samples_bytes // sample_bytes))
    held_out = chosen_sequences(inputs.samples.validation, inputs.feedback, count)
    others = _others(inputs, held_out)
    missing = count - len(held_out)
    more = chosen_sequences(others, inputs.feedback, missing) if missing > 0 else []
    references = _references(inputs, held_out, more)
    assert references is not None
    return references


def _others(inputs: Inputs, held_out: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in inputs.samples.calibration if sample not in held_out]


def _references(inputs: Inputs, held_out: Sequence[Sample], others: Sequence[Sample]) -> References | None:
    if not held_out:
        return None
    verified = len(inputs.samples.every)
    return References.of(inputs.model, held_out, others, inputs.specs, inputs.feedback, verified)
