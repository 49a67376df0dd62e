"""The sample, result of every reader."""

from collections.abc import Callable
from dataclasses import dataclass

from onnxq.types import Feeds


@dataclass(frozen=True)
class Sample:
    """One sample.

    name   path of the file in the data folder
    load   function that loads the feeds
    label  label from the data; None without one
    portable  whether `load` works in other processes too, from files alone
    """

    name: str
    load: Callable[[], Feeds]
    label: str | None = None
    portable: bool = True
