"""Statistics of a model's tensors over a set of samples: merged, saved and loaded."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.calibration.sketch import BINS, LOWER, ORDER, UPPER, Sketch
from onnxq.data.arrays import read_npz
from onnxq.errors import DataError, first_line
from onnxq.graph.files import staged
from onnxq.runtime.npz import npz_bytes
from onnxq.types import Array, Feeds

VERSION = 2
UNCHECKED = 1
"""Version of files without a checksum."""
TOLERANCE = 1e-6
"""Relative rounding error of a moving average."""
_POSITIONS = np.full(BINS, -1)
_POSITIONS[ORDER] = np.arange(len(ORDER))
"""Position of each bin in ascending order of value; -1 for those of NaN and infinity."""
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
            "tensors": list(self.sketches),
        }
        arrays: dict[str, Any] = {
            "lengths": np.array([len(i) for i in indices], np.int64),
            "bins": np.concatenate(indices or empty).astype(np.uint16),
            "counts": np.concatenate(counts or empty),
            "values": np.array(
                [[getattr(s, key) for key in _FIELDS] for s in self.sketches.values()], np.float64
            ),
        }
        header["checksum"] = _checksum(header, arrays)
        arrays = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays}
        with staged(path, force=force) as building:
            building.write_bytes(npz_bytes(arrays, compressed=True))


def load_statistics(path: Path, model: str) -> Statistics:
    """Read a file of `Statistics.save`.

    Raises:
        DataError: it is no statistics file, is damaged or changed, or belongs to another model.
    """
    try:
        arrays = read_npz(path)
        header = json.loads(arrays.pop("header").tobytes())
        version = header["version"]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file: make it with onnxq calibrate") from error
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many types for a damaged file
        raise DataError(
            f"{path}: no statistics of onnxq calibrate, or damaged ({first_line(error)}): calibrate again"
        ) from error
    if version not in (UNCHECKED, VERSION):
        raise DataError(f"{path}: statistics of format {version}, not {VERSION}: calibrate again")
    if version == VERSION and header.pop("checksum", None) != _checksum(header, arrays):
        raise DataError(f"{path}: changed since onnxq calibrate wrote it: calibrate again")
    if header.get("model") != model:
        raise DataError(f"{path}: these statistics belong to another model: calibrate this one")
    problem = _header_problem(header) or _arrays_problem(arrays, len(header["tensors"]))
    if problem:
        raise DataError(f"{path}: damaged statistics: {problem}: calibrate again")
    statistics = Statistics(model, header["data"], header["samples"], header.get("nonfinite", 0))
    lengths, values = arrays["lengths"], arrays["values"]
    ends = np.cumsum(lengths)
    for i, name in enumerate(header["tensors"]):
        part = slice(ends[i] - lengths[i], ends[i])
        sketch = Sketch(np.zeros(BINS, np.int64), *values[i].tolist())
        bins, counts = arrays["bins"][part], arrays["counts"][part]
        problem = _sketch_problem(sketch, bins, counts)
        if problem:
            raise DataError(f"{path}: damaged statistics: tensor '{name}': {problem}: calibrate again")
        sketch.binned[bins] = counts
        sketch.seen, sketch.batches = int(sketch.seen), int(sketch.batches)
        statistics.sketches[name] = sketch
    return statistics


def _checksum(header: dict[str, Any], arrays: Feeds) -> str:
    """Compute the SHA-256 of a header without its checksum, and of the arrays in order of their names."""
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _header_problem(header: dict[str, Any]) -> str | None:
    """Return the fault of a header; None without one."""
    tensors = header.get("tensors")
    if not isinstance(tensors, list) or not all(isinstance(name, str) for name in tensors):
        return "no list of tensors"
    if len(set(tensors)) != len(tensors):
        return "a tensor occurs twice"
    counts = header.get("samples"), header.get("nonfinite", 0)
    if not all(type(count) is int and count >= 0 for count in counts):
        return "the number of samples is not a count"
    return None if isinstance(header.get("data"), str) else "no digest of the data"


def _arrays_problem(arrays: Feeds, tensors: int) -> str | None:
    """Return the fault in types and shapes of the arrays; None without one."""
    kinds = {"lengths": np.int64, "bins": np.uint16, "counts": np.int64, "values": np.float64}
    wrong = [name for name, kind in kinds.items() if name not in arrays or arrays[name].dtype != kind]
    if wrong:
        return f"no array '{wrong[0]}' of {np.dtype(kinds[wrong[0]])}"
    lengths, bins, counts = arrays["lengths"], arrays["bins"], arrays["counts"]
    if lengths.shape != (tensors,) or arrays["values"].size != tensors * len(_FIELDS):
        return f"not one row for each of {tensors} tensors"
    if np.any((lengths < 0) | (lengths > BINS)) or bins.shape != counts.shape != (lengths.sum(),):
        return "the histograms are not complete"
    return None


def _sketch_problem(sketch: Sketch, bins: Array, counts: Array) -> str | None:
    """Return the fault of a sketch with the given non-empty bins; None without one."""
    numbers = sketch.seen, sketch.batches
    if not all(number >= 0 and float(number).is_integer() for number in numbers):
        return "the number of values is not a count"
    if sketch.batches == 0:
        return "values without a batch" if sketch.seen or len(bins) else None
    low, high = sketch.minimum, sketch.maximum
    if not (np.isfinite([low, high]).all() and low <= high):
        return f"minimum {low:g} and maximum {high:g} are no range"
    slack = TOLERANCE * max(abs(low), abs(high))
    if not all(low - slack <= end <= high + slack for end in sketch.moving_range()):
        return "the moving average of the range is outside of it"
    if np.any(counts <= 0) or counts.sum() > sketch.seen or np.any(np.diff(bins.astype(np.int64)) <= 0):
        return "the histogram does not count the values"
    at = _POSITIONS[bins]
    if np.any(at < 0) or np.any(LOWER[at] > high) or np.any(UPPER[at] < low):
        return "the histogram has values outside of the range"
    return None
