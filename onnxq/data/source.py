"""What every reader returns."""

from collections.abc import Callable
from dataclasses import dataclass

from onnxq.schemes import Feeds


@dataclass(frozen=True)
class Sample:
    """One sample: its name (the file's path inside the data folder) and how to load its feeds."""

    name: str
    load: Callable[[], Feeds]
