"""Perplexity of a language model: exp of the mean negative log-likelihood of the next token."""

import numpy as np

from onnxq.errors import DataError
from onnxq.evaluation.scores.score import Case, Score, ScoreOptions, pick
from onnxq.types import Array


def perplexity(options: ScoreOptions) -> list[Score]:
    """Make perplexity over all tokens but the first; the output is [1, tokens, vocabulary]."""

    def contribution(case: Case) -> list[float] | None:
        ids, logits = case.feeds.get(options.ids), pick(case, options)
        if ids is None or logits.ndim != 3 or logits.shape[1] != ids.shape[-1]:
            raise DataError(
                f"--metric perplexity needs input '{options.ids}' and an output [1, tokens, vocabulary], "
                f"found {list(logits.shape)}: choose another --output or --metric"
            )
        mask = case.feeds.get(options.mask)
        kept = (
            np.ones(ids.shape[-1], bool) if mask is None or mask.shape != ids.shape else mask[0].astype(bool)
        )
        loss = next_token_loss(logits[0], ids[0])[kept[1:]]
        return [float(loss.sum()), len(loss)] if len(loss) else None

    return [
        Score(
            "perplexity",
            contribution,
            lambda rows: float(np.exp(rows[:, 0].sum() / rows[:, 1].sum())),
            higher=False,
            share=False,
        )
    ]


def next_token_loss(logits: Array, ids: Array) -> Array:
    """Compute -log p of each next token, [tokens - 1]; row by row, because a vocabulary is large."""
    losses = np.empty(len(ids) - 1)
    for i, token in enumerate(ids[1:]):
        row = logits[i].astype(np.float64)
        top = row.max()
        losses[i] = top + np.log(np.exp(row - top).sum()) - row[int(token)]
    return losses
