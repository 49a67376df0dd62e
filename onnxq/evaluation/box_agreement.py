"""Boxes of detectors: how many of the float model's boxes a quantized file finds.

The SQNR of scores says little about boxes: a score that falls below the threshold is a box less.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from onnxq.errors import DataError
from onnxq.evaluation.scores.detection import matches
from onnxq.evaluation.scores.detector_heads import certain_layout, read_boxes
from onnxq.evaluation.scores.score import Case
from onnxq.types import Array, Feeds

LEAST_BOXES = 20
"""Boxes of the float model below which their agreement is left to chance."""
MOST_UNSURE = 16
"""Samples without a box that is surely one after which a model counts as no detector."""


@dataclass(frozen=True)
class BoxAgreement:
    """Agreement of boxes with the float model's: same class, intersection over union at least 0.5.

    f1      harmonic mean of the shares of both models' boxes that match, 0..1
    boxes   boxes of the float model
    layout  layout of the outputs that was recognized, a value of `--decoder`
    """

    f1: float
    boxes: int
    layout: str


class BoxTally:
    """Counts matching boxes, sample by sample; nothing where the model is no known detector."""

    def __init__(self, outputs: Sequence[str]) -> None:
        self._outputs = outputs
        self._layout: str | None = None
        self._unsure = 0  # samples before the first one that surely has boxes
        self._matching, self._wanted, self._found = 0.0, 0, 0

    @property
    def counts(self) -> bool:
        """Whether further samples count."""
        return self._unsure < MOST_UNSURE

    def add(self, sample: str, feeds: Feeds, expected: Sequence[Array], found: Sequence[Array]) -> None:
        """Add a sample with the outputs of the float model and of the quantized file."""
        if not self.counts:
            return
        of_float, case = (
            Case(sample, feeds, dict(zip(self._outputs, values, strict=False)), None)
            for values in (expected, found)
        )
        self._layout = self._layout or certain_layout(of_float)
        if self._layout is None:
            self._unsure += 1
            return
        try:
            wanted = read_boxes(of_float, self._layout)
        except DataError:  # another form than in the samples before: the model is no detector
            self._layout, self._unsure = None, MOST_UNSURE
            return
        self._wanted += len(wanted.boxes)
        try:
            boxes = read_boxes(case, self._layout)
        except DataError:  # not even the form of boxes
            return
        self._matching += matches(boxes, wanted)
        self._found += len(boxes.boxes)

    def result(self) -> BoxAgreement | None:
        """Return the agreement; None for other models, and with too few boxes."""
        if self._layout is None or self._wanted < LEAST_BOXES:
            return None
        return BoxAgreement(2 * self._matching / (self._wanted + self._found), self._wanted, self._layout)
