"""Reasons why a node stays in float: a cause for the program and a text for the user."""

from dataclasses import dataclass
from enum import Enum, auto


class Cause(Enum):
    """Kinds of reasons why a node stays in float."""

    NO_KERNEL = auto()
    """The runtime has no integer kernel for the node here."""
    SELECTION = auto()
    """The user excluded the node."""
    CALIBRATION = auto()
    """The range of its values cannot be observed, or is too wide for 8 bits."""
    SPEED = auto()
    """Its float kernel is expected to be faster."""
    ACCURACY = auto()
    """The outputs are too far from float with the node in int8."""
    TRIAL = auto()
    """Another node is being measured alone; no written file has this cause."""


@dataclass(frozen=True)
class FloatReason:
    """The reason why a node stays in float.

    cause  kind of the reason
    text   text in reports
    """

    cause: Cause
    text: str

    def __str__(self) -> str:
        return self.text


SLOWER = FloatReason(
    Cause.SPEED, "kept float for speed: its integer kernel and the conversions around it take longer"
)
TOO_NOISY = FloatReason(Cause.ACCURACY, "kept float for accuracy: the outputs are too far from float with it")
UNUSABLE = "kept float: with it, the int8 form cannot be used: {}"
"""With the words of the runtime."""
MEASURING = FloatReason(Cause.TRIAL, "kept float while another node is measured alone")
NO_WIDE_CLIP = FloatReason(
    Cause.NO_KERNEL, "becomes a Clip of stored integers, which the runtime has for 8 bits, not for 16"
)
CHANGING_SHAPES = FloatReason(
    Cause.CALIBRATION, "is in a Loop or Scan whose values change their shape from iteration to iteration"
)
