"""Regression errors: mean absolute, root mean square, and explained variance (R2)."""

import numpy as np

from onnxq.errors import DataError
from onnxq.evaluation.scores.score import Case, Score, ScoreOptions, numbers, pick
from onnxq.types import Array


def regression(options: ScoreOptions) -> list[Score]:
    """Make MAE, RMSE and R2; a label has one number per output value, separated by spaces."""

    def contribution(case: Case) -> list[float] | None:
        """Sum up: count, absolute errors, squared errors, labels, squared labels."""
        if not case.label:
            return None
        wanted, found = numbers(case), pick(case, options).astype(np.float64).ravel()
        if len(wanted) != len(found):
            raise DataError(
                f"sample {case.name}: the label has {len(wanted)} numbers, the output {len(found)}: correct "
                "the label or choose another --output"
            )
        error = found - wanted
        return [
            len(wanted),
            float(np.abs(error).sum()),
            float(error @ error),
            float(wanted.sum()),
            float(wanted @ wanted),
        ]

    return [
        Score(
            "MAE",
            contribution,
            lambda rows: float(rows[:, 1].sum() / rows[:, 0].sum()),
            higher=False,
            share=False,
        ),
        Score(
            "RMSE",
            contribution,
            lambda rows: float(np.sqrt(rows[:, 2].sum() / rows[:, 0].sum())),
            higher=False,
            share=False,
        ),
        Score("R2", contribution, _r2),
    ]


def _r2(rows: Array) -> float:
    count, _, squares, labels, labels_squared = rows.sum(0)
    variance = labels_squared - labels**2 / count
    return float(1 - squares / variance) if variance > 0 else 0.0
