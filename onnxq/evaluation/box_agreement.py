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
    """Counts matching boxes, sample by sample; nothing where the outputs are no known detector's."""

    def __init__(self, outputs: Sequence[str]) -> None:
        self._outputs = outputs
        self._layout: str | None = None
        self._open = True  # until an output is seen that no detector has
        self._matching, self._wanted, self._found = 0.0, 0, 0

    @property
    def counts(self) -> bool:
        """Whether further samples count."""
        return self._open

    def add(self, sample: str, feeds: Feeds, expected: Sequence[Array], found: Sequence[Array]) -> None:
        """Add a sample with the outputs of the float model and of the quantized file."""
        both = [dict(zip(self._outputs, values, strict=False)) for values in (expected, found)]
        case = Case(sample, feeds, both[1], None, both[0])
        self._layout = self._layout or certain_layout(case.of_float())
        self._open = self._layout is not None
        if self._layout is None:
            return
        try:
            wanted, boxes = read_boxes(case.of_float(), self._layout), read_boxes(case, self._layout)
        except DataError:  # an output of another form than in the samples before
            self._open, self._layout = False, None
            return
        self._matching += matches(boxes, wanted)
        self._wanted += len(wanted.boxes)
        self._found += len(boxes.boxes)

    def result(self) -> BoxAgreement | None:
        """Return the agreement; None for other models, and with too few boxes."""
        if self._layout is None or self._wanted < LEAST_BOXES:
            return None
        return BoxAgreement(2 * self._matching / (self._wanted + self._found), self._wanted, self._layout)
