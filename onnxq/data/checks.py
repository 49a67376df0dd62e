"""What is odd about samples that can all be read: warnings that save users from a bad calibration."""

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
"""Fewer samples than this leave ranges, and what held-out samples say, uncertain."""
LOOKED_AT = 8
"""Samples that are loaded to be looked at, evenly spaced."""
NORMALIZED = 20.0
"""No normalised pixel is as far from 0 as this: the smallest deviations in use are 50 pixel units."""


def check_samples(
    chosen: Sequence[Sample], everything: Sequence[Sample], specs: list[InputSpec], forms: Forms
) -> list[str]:
    """A line for each thing that is odd.

    Args:
        chosen: the samples that are used.
        everything: those that the folder has.
        specs: the model's inputs.
        forms: what [preprocess] says.

    Raises:
        DataError: one of the samples looked at cannot be read.
    """
    found = []
    if forms.guess:
        form = guess(specs)
        said = ", ".join(f"{key} {value}" for key, value in vars(form).items() if value is not None)
        found.append(f"images are prepared as guessed from the model's input: {said}")
    if len(chosen) < FEW:
        found.append(
            f"only {len(chosen)} samples: ranges and scores of so few are uncertain, 100 or more are better"
        )
    at = np.linspace(0, len(chosen) - 1, min(LOOKED_AT, len(chosen))).astype(int)
    feeds = [check_feeds(chosen[i], specs) for i in at]
    if len(feeds) > 1 and all(_same(feeds[0], other) for other in feeds[1:]):
        found.append(f"the samples look alike: {len(feeds)} of them, evenly spaced, have the same values")
    return found + _classes(chosen, everything) + _normalization(feeds, forms)


def _same(one: Feeds, other: Feeds) -> bool:
    return all(np.array_equal(array, other[name]) for name, array in one.items())


def _classes(chosen: Sequence[Sample], everything: Sequence[Sample]) -> list[str]:
    """Folders that no chosen sample is from."""
    seen, there = ({PurePath(sample.name).parent for sample in samples} for samples in (chosen, everything))
    if len(seen) == len(there):
        return []
    return [
        f"the {len(chosen)} samples are from {len(seen)} of {len(there)} folders: more --samples, or shuffled data, would see all"
    ]


def _normalization(feeds: Sequence[Feeds], forms: Forms) -> list[str]:
    """Pixels that a normalisation should have brought near 0."""
    form = forms.image
    if form is None or not form.dtype.startswith("float"):
        return []
    arrays = [array for feed in feeds for name, array in feed.items() if form.input in (None, name)]
    low, high = min(float(array.min()) for array in arrays), max(float(array.max()) for array in arrays)
    if max(-low, high) < NORMALIZED:
        return []
    if form.mean is None and form.std is None:
        return [
            f"pixels are fed as they are, {low:.3g}..{high:.3g}: [preprocess] has no mean and std; "
            "if the model takes them so, say mean = 0, std = 1"
        ]
    if form.std is not None and max(form.std) < NORMALIZED / 4 and form.std != (1.0,):
        return [
            f"images become values of {low:.3g}..{high:.3g}: mean and std are in pixel units, 0..255, not 0..1"
        ]
    return []
