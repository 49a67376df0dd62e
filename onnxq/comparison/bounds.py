"""Bounds of the output error on new samples, from the errors on the samples at hand."""

import math

import numpy as np

from onnxq.comparison.errors import OutputErrors
from onnxq.types import Array

NORMAL = 1.645
"""Standard errors of the noise ratio added for new samples (one-sided 95 %), more for few samples."""
LEAST_SPARE_DB, USUAL_SAMPLES = 1.8, 200
"""Least margin for new samples, dB, at this number of independent samples; it grows where there are fewer."""
CHOOSING_SPARE_DB = 1.0
"""The same margin while files are still chosen: the result is compared with a target, not promised."""
BATCH, BATCHES, KEPT = 50, 1000, 0.95
"""New samples that a bound is for, batches of them that are drawn, and the share of them that keep it."""
TAIL = 1.4
"""Samples in the tail, in square roots of their number."""
HEAVIEST = 0.8
"""Largest exponent of the tail: that of few samples varies, and from 1 on a distribution has no mean."""


def bounds(
    everything: OutputErrors, fresh: OutputErrors | None = None, untrained: OutputErrors | None = None
) -> Array:
    """Return the ratio of noise to signal of each part that 95 % of batches of new samples keep, [parts].

    It is the largest of three: the ratio on samples outside calibration and choice; that of batches drawn
    from all samples, with a heavier tail than they show; and the ratio on all samples plus a margin in dB,
    larger for fewer samples.

    Where weights were trained on some of the samples, the noise of these is less than that of others. The
    same margins, which show how samples differ, are then added to the ratio on the remaining samples.

    Args:
        everything: errors on all samples.
        fresh: errors on those that had no part in calibration or choice.
        untrained: errors on the samples that nothing was trained on; None if that holds for all.
    """
    least_db = LEAST_SPARE_DB * math.sqrt(max(1.0, USUAL_SAMPLES / max(1, everything.independent)))
    ratios = everything.ratios()
    spared = np.maximum(_of_new_batches(everything), ratios * 10 ** (least_db / 10))
    if untrained is not None and untrained.samples:
        level = untrained.ratios()
        with np.errstate(divide="ignore", invalid="ignore"):
            spared = np.where(ratios > 0, level * (spared / ratios), level)
        spared = np.maximum(spared, level + _standard_errors(untrained) * untrained.standard_errors())
    return np.maximum(spared, fresh.ratios()) if fresh is not None and fresh.samples else spared


def choosing_bounds(errors: OutputErrors, of: int) -> Array:
    """Return the ratio of noise to signal of each part to compare with a target, [parts].

    Args:
        errors: errors on the samples by which files are chosen.
        of: number of samples of the final bound: the standard errors are those expected with that many.
    """
    spare = _standard_errors(errors) * math.sqrt(min(1.0, errors.samples / max(1, of, errors.samples)))
    ratios = errors.ratios()
    return np.maximum(ratios + spare * errors.standard_errors(), ratios * 10 ** (CHOOSING_SPARE_DB / 10))


def _standard_errors(errors: OutputErrors) -> float:
    """Return the number of standard errors to add: a quantile of Student's t, first term of its expansion."""
    return NORMAL + 1.52 / max(1, errors.independent - 1)


def _of_new_batches(errors: OutputErrors) -> Array:
    """Return the ratio that `KEPT` of the batches of new samples stay below, [parts].

    The batches are drawn with replacement (Efron and Tibshirani, An Introduction to the Bootstrap). The worst
    of them would never be worse than the worst sample at hand: noise in the tail is drawn from a power law
    in its place.
    """
    ratios, signals = errors.ratios(), errors.signals()
    if errors.independent < 2:
        return ratios
    signal, noise = errors.by_sequence()
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(noise), (BATCHES, BATCH))
    chances = 1.0 - random.random((BATCHES, BATCH))
    found = ratios.copy()
    for part in np.flatnonzero(np.isfinite(ratios) & (signals > 0) & (noise.sum(0) > 0)):
        threshold, exponent = tail(noise[:, part])
        noises = noise[drawn, part]
        noises = np.where(noises > threshold, threshold * chances**-exponent, noises).sum(1)
        floored = signals[part] > signal[:, part].sum() * (1 + 1e-9)
        mean = signals[part] * BATCH / len(noise)
        # a batch may lack what has a signal, such as objects: it has at least the mean signal of one sample
        power = mean if floored else np.maximum(signal[drawn, part].sum(1), mean / BATCH)
        found[part] = np.quantile(noises / power, KEPT)
    return np.maximum(found, ratios)


def tail(noise: Array) -> tuple[float, float]:
    """Return where the tail of a distribution begins, and its exponent.

    The share of the tail above `x` is taken as `(threshold / x) ** (1 / exponent)` (Hill, A simple general
    approach to inference about the tail of a distribution, 1975).

    Args:
        noise: noise of each sample, [samples], at least two.
    """
    falling = np.sort(noise)[::-1]
    count = min(max(2, int(TAIL * math.sqrt(len(noise)))), len(noise) - 1)
    threshold = float(falling[count])
    if threshold <= 0:  # fewer samples than the tail has any noise: no law fits
        return math.inf, 0.0
    return threshold, min(float(np.log(falling[:count] / threshold).mean()), HEAVIEST)
