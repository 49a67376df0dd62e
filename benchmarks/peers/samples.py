"""Arguments and samples of the scripts in this folder.

Each script is called as `SCRIPT MODEL SAMPLES OUT CONFIGURATION` in its tool's own environment. SAMPLES is a
folder of .npz files, each with the arrays of all inputs.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def arguments() -> tuple[str, Path, str, str]:
    """Return (model, folder of the samples, output, configuration)."""
    model, samples, out, configuration = sys.argv[1:5]
    return model, Path(samples), out, configuration


def feeds(samples: Path) -> Iterator[dict[str, Any]]:
    """Yield the samples in the order of their names."""
    for path in sorted(samples.glob("*.npz")):
        with np.load(path) as file:
            yield {name: file[name] for name in file.files}


def reader(base: type, samples: Path) -> Any:
    """Return a data reader with ONNX Runtime's interface; `base` is the tool's own class of it."""

    class Reader(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rewind()

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

        def rewind(self) -> None:
            self.feeds = feeds(samples)

    return Reader()
