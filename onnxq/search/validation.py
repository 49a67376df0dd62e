"""Which samples tell candidates apart, and how many of them it takes."""

from onnxq.comparison.feedback import chosen_sequences
from onnxq.data.sample import Sample
from onnxq.inputs import Job
from onnxq.options import Effort
from onnxq.search.references import References

JUDGES = {Effort.FAST: 8, Effort.BALANCED: 16, Effort.BEST: 16}
"""Held-out samples over which candidates are compared; where there are fewer, over so many calibration samples too."""
DOUBT_DB = 4.0
"""How far beyond a bound outputs have to be for so few samples to say that they hold it: a decision that tips is worth decibels."""
MORE, MOST_BYTES = 64, 64 << 20
"""Samples, held-out ones first, that say it otherwise, as long as what goes in and comes out of them takes no more than this."""
MORE_IN_SEQUENCES = 200
"""The same where samples of a sequence count as one."""


def find_references(job: Job) -> References | None:
    """What candidates are compared with, or None where no sample is held out."""
    count = JUDGES[job.options.effort]
    held_out = chosen_sequences(job.held_out, job.feedback, count)
    others = _others(job, held_out)
    return _references(
        job, held_out, chosen_sequences(others, job.feedback, count) if len(held_out) < count else []
    )


def more_references(job: Job, few: References) -> References:
    """The same with as many samples as it takes to say whether a bound holds."""
    each = max(1, few.size // len(few.samples))
    count = max(len(few.samples), min(MORE_IN_SEQUENCES if job.feedback.states else MORE, MOST_BYTES // each))
    held_out = chosen_sequences(job.held_out, job.feedback, count)
    others = (
        chosen_sequences(_others(job, held_out), job.feedback, count - len(held_out))
        if count > len(held_out)
        else []
    )
    found = _references(job, held_out, others)
    assert found is not None
    return found


def _others(job: Job, held_out: list[Sample]) -> list[Sample]:
    return [sample for sample in job.calibration if sample not in held_out]


def _references(job: Job, held_out: list[Sample], others: list[Sample]) -> References | None:
    return (
        References.of(job.model, held_out, others, job.specs, job.feedback, len(job.samples))
        if held_out
        else None
    )
