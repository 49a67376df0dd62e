"""What every reader takes and returns."""

from collections.abc import Callable
from dataclasses import dataclass

from onnxq.types import Feeds


@dataclass(frozen=True)
class Sample:
    """One sample: its name (the file's path inside the data folder), how to load its feeds, its label if the data has one."""

    name: str
    load: Callable[[], Feeds]
    label: str | None = None
