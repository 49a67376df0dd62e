"""SQNR of models over a case's evaluation samples, as `bounds.py` and `methods.py` report it."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxq.comparison.metrics import Noise, aligned
from onnxq.data.preprocessing import read_forms
from onnxq.data.samples import check_feeds, open_samples, spread
from onnxq.runtime.sessions import InputSpec
from onnxq.types import Array, Feeds

SAMPLES = 60


def read_feeds(data: Path, specs: list[InputSpec], settings: Path | None) -> list[Feeds]:
    """Read SAMPLES evenly spread samples of a folder; `settings` is its preprocessing file."""
    forms = read_forms(str(settings)) if settings else None
    return [check_feeds(sample, specs) for sample in spread(open_samples(data, specs, forms, 10**6), SAMPLES)]


def sqnr_db(expected: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]]) -> float:
    """Return the SQNR in dB of `found` against `expected`, each a list of outputs per sample.

    The noise-to-signal ratio of each float output is taken over all samples. The SQNR is that of the outputs'
    mean ratio, so the worst output counts most; 0 without a float output.
    """
    errors: defaultdict[int, Noise] = defaultdict(Noise)
    for wants, haves in zip(expected, found, strict=True):
        for i, (want, have) in enumerate(zip(wants, haves, strict=True)):
            if isinstance(want, np.ndarray) and np.issubdtype(want.dtype, np.floating):
                errors[i].add(*aligned(want, np.asarray(have)))
    ratios = [error.noise / error.signal for error in errors.values() if error.signal > 0]
    return Noise(1.0, float(np.mean(ratios))).sqnr_db() or 0.0 if ratios else 0.0
