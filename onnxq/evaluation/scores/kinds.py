"""Registry of the kinds of scores that `--metric` accepts."""

from onnxq.data.python_functions import REFERENCE, import_function
from onnxq.errors import DataError, first_line
from onnxq.evaluation.scores.classification import classification
from onnxq.evaluation.scores.detection import box_agreement, detection
from onnxq.evaluation.scores.embedding import embedding
from onnxq.evaluation.scores.perplexity import perplexity
from onnxq.evaluation.scores.regression import regression
from onnxq.evaluation.scores.score import Case, Score, ScoreKind, ScoreOptions, mean
from onnxq.evaluation.scores.segmentation import mask_agreement, segmentation
from onnxq.evaluation.scores.text import text, text_agreement

KINDS: dict[str, ScoreKind] = {
    "classification": ScoreKind(classification, class_axis=-1, percent=("top-1", "top-5")),
    "regression": ScoreKind(regression, hundredths=("R2",)),
    "embedding": ScoreKind(embedding, pairs=True, hundredths=("Spearman",)),
    "segmentation": ScoreKind(
        segmentation, mask_agreement, needs_labels=False, class_axis=1, percent=("mIoU", "mask IoU")
    ),
    "detection": ScoreKind(
        detection, box_agreement, needs_labels=False, percent=("AP50", "mAP", "box F1"), all_inputs=True
    ),
    "text": ScoreKind(
        text,
        text_agreement,
        needs_labels=False,
        class_axis=-1,
        percent=("exact", "CER", "same lines", "CER to float"),
    ),
    "perplexity": ScoreKind(perplexity, needs_labels=False, class_axis=-1),
}
"""Kinds by their name on the command line; an entry here is all that a new kind needs."""


def make_scores(kind: str, options: ScoreOptions, *, labelled: bool = True) -> list[Score]:
    """Make new scores for one model; gates use the first.

    Args:
        kind: key of `KINDS`, or module:function of the user.
        options: options of the scores.
        labelled: whether samples have labels; without them only agreement with the float model is scored.

    Raises:
        DataError: The kind does not exist, or one of its options is missing.
    """
    if kind in KINDS:
        known = KINDS[kind]
        agreement = known.agreement(options) if known.agreement is not None else []
        return agreement if agreement and not labelled else known.scores(options) + agreement
    if REFERENCE.fullmatch(kind):
        return _function_score(kind)
    raise DataError(f"--metric {kind}: unknown metric: choose one of {', '.join(KINDS)}, or module:function")


def in_percent(metric: str) -> bool:
    """Tell whether reports show a score in percent."""
    return any(metric in kind.percent for kind in KINDS.values())


def drop_unit(metric: str) -> str:
    """Return the unit of a score's drop, with a space before it; empty for that of the score."""
    if in_percent(metric):
        return " percentage points"
    return " hundredths" if any(metric in kind.hundredths for kind in KINDS.values()) else ""


def _function_score(reference: str) -> list[Score]:
    """Average the user's `function(outputs, label)`; higher is better, None skips a sample."""
    function = import_function(reference)

    def contribution(case: Case) -> list[float] | None:
        try:
            value = function(case.outputs, case.label)
            return None if value is None else [float(value)]
        except (Exception, SystemExit) as error:  # the user's function may raise anything
            raise DataError(
                f"sample {case.name}: {reference} raised {type(error).__name__}: {first_line(error)}"
            ) from error

    return [Score(reference.partition(":")[2], contribution, mean, share=False)]
