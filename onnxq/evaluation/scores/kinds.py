"""The kinds of scores by the name that `--metric` takes; any other is a function of the user's."""

from collections.abc import Callable

from onnxq.data.python_functions import REFERENCE, import_function
from onnxq.errors import DataError, first_line
from onnxq.evaluation.scores.classification import classification
from onnxq.evaluation.scores.detection import detection, same_boxes
from onnxq.evaluation.scores.embedding import embedding
from onnxq.evaluation.scores.perplexity import perplexity
from onnxq.evaluation.scores.regression import regression
from onnxq.evaluation.scores.score import Case, Score, ScoreOptions, mean
from onnxq.evaluation.scores.segmentation import same_masks, segmentation
from onnxq.evaluation.scores.text import same_text, text

KINDS: dict[str, Callable[[ScoreOptions], list[Score]]] = {
    "classification": classification,
    "regression": regression,
    "embedding": embedding,
    "segmentation": segmentation,
    "detection": detection,
    "text": text,
    "perplexity": perplexity,
}
AGREEMENT: dict[str, Callable[[ScoreOptions], list[Score]]] = {
    "segmentation": same_masks,
    "detection": same_boxes,
    "text": same_text,
}
"""Of some kinds, how far a model decides as the float model does, for which no labels are needed."""
UNLABELLED = frozenset({"perplexity", *AGREEMENT})
"""Kinds that need no labels."""


def make_scores(kind: str, options: ScoreOptions, *, labelled: bool = True) -> list[Score]:
    """Fresh scores of a kind, for one model; the first is the one that gates hold.

    Raises:
        DataError: no such kind, or something that it needs is missing.
    """
    if kind in KINDS:
        agreement = AGREEMENT[kind](options) if kind in AGREEMENT else []
        return agreement if agreement and not labelled else KINDS[kind](options) + agreement
    if REFERENCE.fullmatch(kind):
        return _function(kind)
    raise DataError(f"--metric {kind}: choose one of {', '.join(KINDS)}, or module:function")


def _function(reference: str) -> list[Score]:
    """The mean of what `function(outputs, label)` gives for each sample; more is better, None does not count."""
    function = import_function(reference)

    def contribution(case: Case) -> list[float] | None:
        try:
            value = function(case.outputs, case.label)
            return None if value is None else [float(value)]
        except Exception as error:  # whatever the user's function raises
            raise DataError(
                f"sample {case.name}: {reference} fails: {type(error).__name__}: {first_line(error)}"
            ) from error

    return [Score(reference.partition(":")[2], contribution, mean, share=False)]
