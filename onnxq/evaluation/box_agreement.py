"""Boxes of detectors: how many of the float model's boxes a quantized file finds.

The SQNR of scores says little about boxes: a score that falls below the threshold is a box less.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from onnxq.errors import DataError
from onnxq.evaluation.scores.detection import matches
from onnxq.evaluation.scores.detector_heads import Boxes, certain_layout, read_boxes
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


@dataclass(eq=False)
class FloatBoxes:
    """Boxes of the float model, each sample's read once for all files that are compared with it.

    outputs  names of the model's outputs
    layout   layout of the outputs, known from the first sample that surely has boxes
    unsure   samples before it; nothing is read any more after `MOST_UNSURE` of them
    known    boxes by name of the sample
    """

    outputs: Sequence[str]
    layout: str | None = None
    unsure: int = 0
    known: dict[str, Boxes] = field(default_factory=dict)

    @property
    def readable(self) -> bool:
        """Whether the model may be a detector."""
        return self.unsure < MOST_UNSURE

    def case(self, sample: str, feeds: Feeds, values: Sequence[Array]) -> Case:
        """Return a sample with a model's outputs."""
        return Case(sample, feeds, dict(zip(self.outputs, values, strict=False)), None)

    def read(self, case: Case) -> Boxes | None:
        """Return the boxes of a sample with the float model's outputs; None where they are not sure."""
        if not self.readable:
            return None
        if case.name not in self.known:
            self.layout = self.layout or certain_layout(case)
            if self.layout is None:
                self.unsure += 1
                return None
            try:
                self.known[case.name] = read_boxes(case, self.layout)
            except DataError:  # another form than in the samples before: the model is no detector
                self.layout, self.unsure = None, MOST_UNSURE
                return None
        return self.known[case.name]


class BoxTally:
    """Counts matching boxes of a file, sample by sample; nothing where the model is no known detector."""

    def __init__(self, of_float: FloatBoxes) -> None:
        self.of_float = of_float
        self._matching, self._wanted, self._found = 0.0, 0, 0

    def add(self, sample: str, feeds: Feeds, expected: Sequence[Array], found: Sequence[Array]) -> None:
        """Add a sample with the outputs of the float model and of the quantized file."""
        wanted = self.of_float.read(self.of_float.case(sample, feeds, expected))
        if wanted is None:
            return
        self._wanted += len(wanted.boxes)
        try:
            boxes = read_boxes(self.of_float.case(sample, feeds, found), self.of_float.layout)
        except DataError:  # not even the form of boxes
            return
        self._matching += matches(boxes, wanted)
        self._found += len(boxes.boxes)

    def result(self) -> BoxAgreement | None:
        """Return the agreement; None for other models, and with too few boxes."""
        layout = self.of_float.layout
        if layout is None or self._wanted < LEAST_BOXES:
            return None
        return BoxAgreement(2 * self._matching / (self._wanted + self._found), self._wanted, layout)
