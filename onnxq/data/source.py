"""What every reader returns."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onnxq.schemes import Feeds


@dataclass(frozen=True)
class Sample:
    """One sample: a name for messages, the file it comes from, and how to load its feeds."""

    name: str
    file: Path
    load: Callable[[], Feeds]
