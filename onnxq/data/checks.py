"""Warnings about readable but unsuitable samples, which would lead to a bad calibration."""

from collections.abc import Sequence
from pathlib import PurePath

import numpy as np

from onnxq.data.images import guess
from onnxq.data.preprocessing import Forms
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds
from onnxq.runtime.sessions import InputSpec
from onnxq.types import Feeds

FEW = 32
"""Number of samples below which ranges and scores on validation samples are unreliable."""
LOOKED_AT = 8
"""Samples that the checks load, evenly spaced."""
NORMALIZED = 20.0
"""Magnitude that no normalized pixel reaches: common standard deviations are at least 50 pixel units."""


def check_samples(
    chosen: Sequence[Sample], everything: Sequence[Sample], specs: list[InputSpec], forms: Forms
) -> list[str]:
    """Return one warning per problem.

    Args:
        chosen: the samples in use.
        everything: all samples of the folder.
        specs: the model's inputs.
        forms: the preprocessing.

    Raises:
        DataError: A checked sample cannot be read.
    """
    found = []
    if forms.guess:
        form = guess(specs)
        settings = ", ".join(f"{key} {value}" for key, value in vars(form).items() if value is not None)
        found.append(f"--preprocess guess: image preprocessing is guessed from the model's input: {settings}")
    if len(chosen) < FEW:
        found.append(f"only {len(chosen)} samples: ranges and scores are unreliable: give 100 or more")
    at = np.linspace(0, len(chosen) - 1, min(LOOKED_AT, len(chosen))).astype(int)
    feeds = [check_feeds(chosen[i], specs) for i in at]
    if len(feeds) > 1 and all(_same(feeds[0], other) for other in feeds[1:]):
        found.append(f"{len(feeds)} evenly spaced samples have the same values: check the data")
    return found + _classes(chosen, everything) + _normalization(feeds, forms)


def _same(one: Feeds, other: Feeds) -> bool:
    return all(np.array_equal(array, other[name]) for name, array in one.items())


def _classes(chosen: Sequence[Sample], everything: Sequence[Sample]) -> list[str]:
    """Warn if the chosen samples miss some of the folders."""
    seen, there = ({PurePath(sample.name).parent for sample in samples} for samples in (chosen, everything))
    if len(seen) == len(there):
        return []
    return [
        f"the {len(chosen)} samples are from {len(seen)} of {len(there)} folders: raise --samples or "
        "shuffle the data to cover all"
    ]


def _normalization(feeds: Sequence[Feeds], forms: Forms) -> list[str]:
    """Warn if pixels are not near 0, as they are after normalization."""
    form = forms.image
    if form is None or not form.dtype.startswith("float"):
        return []
    arrays = [array for feed in feeds for name, array in feed.items() if form.input in (None, name)]
    low, high = min(float(array.min()) for array in arrays), max(float(array.max()) for array in arrays)
    if max(-low, high) < NORMALIZED:
        return []
    if form.mean is None and form.std is None:
        return [
            f"pixels are not normalized, {low:.3g}..{high:.3g}: set mean and std in [preprocess]; "
            "if the model takes raw pixels, set mean = 0, std = 1"
        ]
    if form.std is not None and max(form.std) < NORMALIZED / 4 and form.std != (1.0,):
        return [
            f"normalized images have values {low:.3g}..{high:.3g}: give mean and std in pixel units, "
            "0..255, not 0..1"
        ]
    return []
