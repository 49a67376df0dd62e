"""What the scripts of this folder share: MODEL SAMPLES OUT [CONFIGURATION], samples as .npz files of input arrays."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def arguments() -> tuple[str, Path, str, str]:
    model, samples, out, configuration = sys.argv[1:5]
    return model, Path(samples), out, configuration


def feeds(samples: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(samples.glob("*.npz")):
        with np.load(path) as file:
            yield {name: file[name] for name in file.files}


def reader(base: type, samples: Path) -> Any:
    """A data reader of ONNX Runtime's kind, of which the tools have classes of their own."""

    class Reader(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rewind()

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

        def rewind(self) -> None:
            self.feeds = feeds(samples)

    return Reader()
