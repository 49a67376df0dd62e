"""Statistics of a model's tensors over a set of samples: merged, saved and loaded."""

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.calibration.sketch import BINS, Sketch
from onnxq.errors import DataError
from onnxq.graph.files import staged

VERSION = 1
_FIELDS = ("minimum", "maximum", "seen", "ema_minimum", "ema_maximum", "batches")


@dataclass
class Statistics:
    """A sketch for each tensor, and where they come from.

    model    SHA-256 of the float model; statistics of another model are refused
    data     SHA-256 of each sample, chained in order
    samples  number of samples seen
    nonfinite  number of NaN and infinite values that were left out
    sketches  by tensor
    aliases  tensor by the name of a view of it; not saved
    """

    model: str
    data: str = ""
    samples: int = 0
    nonfinite: int = 0
    sketches: dict[str, Sketch] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def sketch(self, tensor: str) -> Sketch | None:
        """Return the sketch of a tensor, or of the tensor that it is a view of; None where there is none."""
        return self.sketches.get(tensor) or self.sketches.get(self.aliases.get(tensor, ""))

    def merge(self, later: "Statistics") -> None:
        """Add the statistics of later samples of the same model.

        Raises:
            DataError: they belong to another model or other tensors.
        """
        if self.model != later.model or set(self.sketches) != set(later.sketches):
            raise DataError("these statistics belong to different models: calibrate again")
        self.data = f"{self.data}+{later.data}"
        self.samples += later.samples
        self.nonfinite += later.nonfinite
        for name, sketch in self.sketches.items():
            sketch.merge(later.sketches[name])

    def save(self, path: Path, *, force: bool = True) -> None:
        """Write an .npz atomically; the same statistics give the same bytes. `force` replaces a file.

        Raises:
            OutputError: the file cannot be written.
        """
        indices = [np.flatnonzero(sketch.counts) for sketch in self.sketches.values()]
        counts = [s.counts[i] for s, i in zip(self.sketches.values(), indices, strict=True)]
        empty = [np.zeros(0, np.int64)]
        header = {
            "version": VERSION,
            "model": self.model,
            "data": self.data,
            "samples": self.samples,
            "nonfinite": self.nonfinite,
        }
        arrays: dict[str, Any] = {
            "header": np.frombuffer(json.dumps(header | {"tensors": list(self.sketches)}).encode(), np.uint8),
            "lengths": np.array([len(i) for i in indices], np.int64),
            "bins": np.concatenate(indices or empty).astype(np.uint16),
            "counts": np.concatenate(counts or empty),
            "values": np.array(
                [[getattr(s, key) for key in _FIELDS] for s in self.sketches.values()], np.float64
            ),
        }
        with staged(path, force=force) as building, open(building, "wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)


def load_statistics(path: Path, model: str) -> Statistics:
    """Read a file of `Statistics.save`.

    Raises:
        DataError: it is no statistics file, or one of another model.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(file["header"].tobytes())
            lengths, values = file["lengths"], file["values"]
            bins, counts = file["bins"], file["counts"]
        if header["version"] != VERSION:
            raise DataError(
                f"{path}: statistics of format {header['version']}, not {VERSION}: calibrate again"
            )
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file: make it with onnxq calibrate") from error
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: no statistics of onnxq calibrate ({type(error).__name__})") from error
    if header["model"] != model:
        raise DataError(f"{path}: these statistics belong to another model: calibrate this one")
    statistics = Statistics(header["model"], header["data"], header["samples"], header.get("nonfinite", 0))
    ends = np.cumsum(lengths)
    for i, name in enumerate(header["tensors"]):
        part = slice(ends[i] - lengths[i], ends[i])
        sketch = Sketch(np.zeros(BINS, np.int64), *values[i].tolist())
        sketch.binned[bins[part]] = counts[part]
        sketch.seen, sketch.batches = int(sketch.seen), int(sketch.batches)
        statistics.sketches[name] = sketch
    return statistics
