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
