"""Divide samples: most calibrate, some choose among candidates, and some are kept from every choice."""

import random
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import pairwise

from onnxq.data.sample import Sample

VALIDATION_SHARE, MOST_VALIDATION_SHARE = 6, 3
"""One sample in 6 validates; of few samples up to one in 3, until there are VALIDATION of them."""
VALIDATION = 24
"""Validation samples to reach if that takes no more than the larger share."""
UNSEEN_SHARE = 3
"""One validation sample in 3 is kept from every choice: no file is chosen by it."""


@dataclass(frozen=True)
class SplitSamples:
    """Samples by their use.

    calibration  statistics are made from them
    validation   candidates are compared on them; nothing is made from them
    unseen       nothing is made from them or chosen by them
    every        all samples, each once, in the order of the data
    further      whole sequences of a stateful model beyond these, for verification: a sequence counts as one
    names        names of all samples of the data, of which `every` may be a part
    """

    calibration: Sequence[Sample] = ()
    validation: Sequence[Sample] = ()
    unseen: Sequence[Sample] = ()
    every: Sequence[Sample] = ()
    further: Sequence[Sample] = ()
    names: Sequence[str] = ()


def split(samples: Sequence[Sample], starts: Container[str] | None = None) -> SplitSamples:
    """Divide samples; where there are too few, one calibrates and validates.

    Args:
        samples: in the order of the data.
        starts: names of the first samples of sequences, which stay whole; None without sequences.
    """
    firsts = [i for i, sample in enumerate(samples) if starts is None or sample.name in starts]
    parts = [samples[start:stop] for start, stop in pairwise([*firsts, len(samples)])]
    wanted = -(-VALIDATION * len(parts) // max(1, len(samples)))
    count = max(len(parts) // VALIDATION_SHARE, min(wanted, len(parts) // MOST_VALIDATION_SHARE))
    kept = sorted(scattered(len(parts), count))
    unseen = set(kept[UNSEEN_SHARE - 1 :: UNSEEN_SHARE])
    if len(kept) > 1 and not unseen:
        unseen = {kept[-1]}
    calibrating: list[Sample] = []
    validating: list[Sample] = []
    untouched: list[Sample] = []
    for i, part in enumerate(parts):
        (untouched if i in unseen else validating if i in kept else calibrating).extend(part)
    return SplitSamples(calibrating, validating or list(samples[:1]), untouched, list(samples))


def scattered(of: int, count: int) -> set[int]:
    """Return a stratified random sample of indices below `of`: one per equal-sized block, fixed seed.

    Data may repeat itself with any period, so that evenly spaced indices could all be alike.
    """
    starts, chance = [of * i // max(count, 1) for i in range(count + 1)], random.Random(0)
    return {start + int((stop - start) * chance.random()) for start, stop in pairwise(starts)}
