"""Reasons for which a node stays in float: a cause that code can ask for, and a text for the user."""

from dataclasses import dataclass
from enum import Enum, auto


class Cause(Enum):
    """Kinds of reasons for which a node stays in float."""

    NO_KERNEL = auto()
    """The runtime has no integer kernel for the node as it stands."""
    SELECTION = auto()
    """The user excluded the node."""
    CALIBRATION = auto()
    """The range of its values cannot be observed, or no integer scale holds it."""
    SPEED = auto()
    """Its float kernel is expected to be faster."""
    ACCURACY = auto()
    """The outputs are too far from float with it."""
    TRIAL = auto()
    """Another node is being measured alone; no file is written this way."""


@dataclass(frozen=True)
class FloatReason:
    """The cause for which a node stays in float, and the text that reports show."""

    cause: Cause
    text: str

    def __str__(self) -> str:
        return self.text


SLOWER = FloatReason(
    Cause.SPEED, "kept float for speed: its integer form, with the conversions around it, takes longer"
)
TOO_NOISY = FloatReason(Cause.ACCURACY, "kept float for accuracy: the outputs are too far from float with it")
UNUSABLE = "kept float: with it, the int8 form cannot be used: {}"
"""With the words of the runtime."""
MEASURING = FloatReason(Cause.TRIAL, "kept float while another node is measured alone")
CHANGING_SHAPES = FloatReason(
    Cause.CALIBRATION, "lies in a Loop or Scan whose values change their shape from iteration to iteration"
)
