"""Embeddings: Spearman's rank correlation of cosine similarities with labels."""

import numpy as np

from onnxq.errors import DataError
from onnxq.evaluation.scores.score import Case, Score, ScoreOptions, numbers, pick
from onnxq.types import Array


def embedding(options: ScoreOptions) -> list[Score]:
    """Make the Spearman correlation of cosine and label; two successive samples form a pair."""
    first: list[tuple[str | None, Array]] = []

    def contribution(case: Case) -> list[float] | None:
        vector = _pooled(case, options)
        if not first:
            first.append((case.label, vector))
            return None
        label, other = first.pop()
        if label != case.label:
            raise DataError(
                f"sample {case.name}: label is {case.label!r}, but {label!r} in the first row of its pair: "
                "give both rows of a pair the same label"
            )
        if vector.shape != other.shape:
            raise DataError(
                f"sample {case.name}: its embedding has {len(vector)} values, that of its pair {len(other)}: "
                "name the output that holds embeddings with --output"
            )
        (wanted,) = numbers(case)
        lengths = float(np.linalg.norm(vector) * np.linalg.norm(other))
        return [float(vector @ other) / lengths if lengths else 0.0, float(wanted)]

    return [Score("Spearman", contribution, lambda rows: correlation(ranks(rows[:, 0]), ranks(rows[:, 1])))]


def _pooled(case: Case, options: ScoreOptions) -> Array:
    """Reduce the output to one vector; pool token embeddings [1, tokens, width] without padding."""
    output = pick(case, options).astype(np.float64)
    if output.ndim != 3 or options.pool == "none":
        return output.ravel()
    if options.pool == "first":
        return np.asarray(output[0, 0])
    mask = case.feeds.get(options.mask)
    kept = (
        np.ones(output.shape[1])
        if mask is None or mask.shape != output.shape[:2]
        else mask[0].astype(np.float64)
    )
    return np.asarray(kept @ output[0] / max(1.0, kept.sum()))


def ranks(values: Array) -> Array:
    """Rank values from 1; ties share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse])


def correlation(one: Array, other: Array) -> float:
    """Compute Pearson's correlation; 0 if one of the arrays is constant."""
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / scale if scale else 0.0
