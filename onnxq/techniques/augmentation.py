"""Augmentation of images: flips, shifts and mixtures, so that few samples are not learned by heart.

H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, for the mixtures.
"""

from dataclasses import dataclass

import numpy as np

from onnxq.types import Array, Floats

CHANNELS = (1, 3, 4)
"""Numbers of channels of an image."""
LEAST_SIZE = 16
"""Least height and width of an image."""
MOST_SHIFT = 1 / 8
"""Largest shift, as a share of height or width."""
MIXED = 0.25
"""Share of the images that are mixed with another one."""


@dataclass(frozen=True)
class Change:
    """A random change of an image.

    flip    exchange left and right
    shift   shares of height and width by which the image moves; its edges are repeated
    weight  of the image in a mixture with another; 1 for no mixture
    """

    flip: bool
    shift: tuple[float, float]
    weight: float

    @staticmethod
    def draw(rng: np.random.Generator) -> "Change":
        """Draw a change."""
        flip, shift = bool(rng.random() < 0.5), rng.uniform(-MOST_SHIFT, MOST_SHIFT, 2)
        weight = float(rng.uniform(0.5, 1.0)) if rng.random() < MIXED else 1.0
        return Change(flip, (float(shift[0]), float(shift[1])), weight)


def image_axes(array: Array) -> tuple[int, int] | None:
    """Return the axes of height and width of a batch of images, None if it is none.

    Args:
        array: [batch, channels, height, width] or [batch, height, width, channels].
    """
    if array.ndim != 4 or array.dtype != np.float32:
        return None
    for channels, axes in ((1, (2, 3)), (3, (1, 2))):
        if array.shape[channels] in CHANNELS and min(array.shape[axis] for axis in axes) >= LEAST_SIZE:
            return axes
    return None


def changed(image: Floats, change: Change, other: Floats | None = None) -> Floats:
    """Return a changed image.

    Args:
        image: a batch of images; see `image_axes`.
        change: what to do.
        other: image of the same shape for a mixture; None for no mixture.
    """
    axes = image_axes(image)
    assert axes is not None
    if change.flip:
        image = np.flip(image, axes[1])
    for axis, share in zip(axes, change.shift, strict=True):
        size = image.shape[axis]
        places = np.clip(np.arange(size) + round(share * size), 0, size - 1)
        image = np.take(image, places, axis)
    if other is not None and change.weight < 1:
        image = change.weight * image + (1 - change.weight) * other
    return np.ascontiguousarray(image, np.float32)
