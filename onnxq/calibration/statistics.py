"""Statistics of a model's tensors over a set of samples: merged, saved and loaded."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.calibration.channels import add_channels
from onnxq.calibration.moments import LayerInput, LayerRows
from onnxq.calibration.sketch import BINS, LOWER, ORDER, UPPER, Sketch
from onnxq.data.arrays import read_npz
from onnxq.errors import DataError, first_line
from onnxq.graph.files import staged
from onnxq.runtime.npz import npz_bytes
from onnxq.types import Array, Feeds, Floats

VERSION = 4
UNCHECKED, WITHOUT_ROWS, WITHOUT_CHANNELS = 1, 2, 3
"""Versions of files: without a checksum; without rows and the latest ranges; without ranges of channels."""
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
    contents  SHA-256 of each batch of samples, one behind the other; `data` is theirs
    rows     rows of layers' inputs, [rows, groups, size], in parts in the order of the samples
    channels  minimum and maximum of each channel of products' inputs, [2, channels] by tensor
    """

    model: str
    data: str = ""
    samples: int = 0
    nonfinite: int = 0
    sketches: dict[str, Sketch] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    contents: bytes = b""
    rows: LayerRows = field(default_factory=dict)
    channels: dict[str, Floats] = field(default_factory=dict)

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
        if self.contents and later.contents:
            self.contents += later.contents
            self.data = hashlib.sha256(self.contents).hexdigest()
        else:  # other data, or statistics of an earlier version
            self.data, self.contents = f"{self.data}+{later.data}", b""
        both = self.rows.keys() & later.rows.keys()
        self.rows = {
            layer: [*parts, *later.rows[layer]] for layer, parts in self.rows.items() if layer in both
        }
        self.channels = {name: self.channels[name] for name in self.channels if name in later.channels}
        add_channels(self.channels, {name: later.channels[name] for name in self.channels})
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
        recent = [sketch.recent for sketch in self.sketches.values()]
        header = {
            "version": VERSION,
            "model": self.model,
            "data": self.data,
            "samples": self.samples,
            "nonfinite": self.nonfinite,
            "tensors": list(self.sketches),
            "layers": [asdict(layer) for layer in self.rows],
            "channels": list(self.channels),
        }
        arrays: dict[str, Any] = {
            "lengths": np.array([len(i) for i in indices], np.int64),
            "bins": np.concatenate(indices or empty).astype(np.uint16),
            "counts": np.concatenate(counts or empty),
            "values": np.array(
                [[getattr(s, key) for key in _FIELDS] for s in self.sketches.values()], np.float64
            ),
            "contents": np.frombuffer(self.contents, np.uint8),
            "recent": np.concatenate([*map(np.asarray, recent), np.zeros(0)]),
            "recent_lengths": np.array([len(each) for each in recent], np.int64),
        }
        for number, (layer, parts) in enumerate(self.rows.items()):
            none = np.zeros((0, layer.groups, layer.size), np.float32)
            arrays[f"rows{number}"] = np.concatenate([none, *parts])
            arrays[f"row_counts{number}"] = np.array([len(part) for part in parts], np.int64)
        arrays |= {f"channels{number}": found for number, found in enumerate(self.channels.values())}
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
    if version not in (UNCHECKED, WITHOUT_ROWS, WITHOUT_CHANNELS, VERSION):
        raise DataError(f"{path}: statistics of format {version}, not {VERSION}: calibrate again")
    if version != UNCHECKED and header.pop("checksum", None) != _checksum(header, arrays):
        raise DataError(f"{path}: changed since onnxq calibrate wrote it: calibrate again")
    if header.get("model") != model:
        raise DataError(f"{path}: these statistics belong to another model: calibrate this one")
    problem = _header_problem(header) or _arrays_problem(arrays, len(header["tensors"]))
    if not problem and version >= WITHOUT_CHANNELS:
        problem = _more_problem(header, arrays) or _channels_problem(header.get("channels", []), arrays)
    if problem:
        raise DataError(f"{path}: damaged statistics: {problem}: calibrate again")
    statistics = Statistics(model, header["data"], header["samples"], header.get("nonfinite", 0))
    try:
        statistics.sketches = _sketches(header, arrays)
    except ValueError as error:
        raise DataError(f"{path}: damaged statistics: {error}: calibrate again") from error
    if version >= WITHOUT_CHANNELS:
        statistics.contents, statistics.rows = arrays["contents"].tobytes(), _rows(header, arrays)
        named = enumerate(header.get("channels", []))
        statistics.channels = {name: arrays[f"channels{number}"] for number, name in named}
    return statistics


def _sketches(header: dict[str, Any], arrays: Feeds) -> dict[str, Sketch]:
    """Return the sketches of a file; raise a `ValueError` for one that is none."""
    lengths, values, found = arrays["lengths"], arrays["values"], {}
    ends = np.cumsum(lengths)
    recent_ends = np.cumsum(arrays.get("recent_lengths", np.zeros(0, np.int64)))
    for i, name in enumerate(header["tensors"]):
        part = slice(ends[i] - lengths[i], ends[i])
        sketch = Sketch(np.zeros(BINS, np.int64), *values[i].tolist())
        bins, counts = arrays["bins"][part], arrays["counts"][part]
        problem = _sketch_problem(sketch, bins, counts)
        if problem:
            raise ValueError(f"tensor '{name}': {problem}")
        sketch.binned[bins] = counts
        sketch.seen, sketch.batches = int(sketch.seen), int(sketch.batches)
        if len(recent_ends):
            first = recent_ends[i] - arrays["recent_lengths"][i]
            sketch.recent.frombytes(arrays["recent"][first : recent_ends[i]].tobytes())
        found[name] = sketch
    return found


def _rows(header: dict[str, Any], arrays: Feeds) -> LayerRows:
    """Return the rows of the layers' inputs of a file."""
    return {
        LayerInput.of(layer): np.split(arrays[f"rows{number}"], np.cumsum(arrays[f"row_counts{number}"])[:-1])
        for number, layer in enumerate(header["layers"])
    }


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


def _more_problem(header: dict[str, Any], arrays: Feeds) -> str | None:
    """Return the fault in the latest ranges and the rows; None without one."""
    layers, tensors = header.get("layers"), len(header["tensors"])
    if not isinstance(layers, list):
        return "no list of layers"
    kinds: dict[str, Any] = {"contents": np.uint8, "recent": np.float64, "recent_lengths": np.int64}
    for number in range(len(layers)):
        kinds |= {f"rows{number}": np.float32, f"row_counts{number}": np.int64}
    wrong = [name for name, kind in kinds.items() if name not in arrays or arrays[name].dtype != kind]
    if wrong:
        return f"no array '{wrong[0]}' of {np.dtype(kinds[wrong[0]])}"
    lengths = arrays["recent_lengths"]
    if lengths.shape != (tensors,) or np.any(lengths < 0) or arrays["recent"].shape != (lengths.sum(),):
        return "the latest ranges are not complete"
    for number, layer in enumerate(layers):
        counts, rows = arrays[f"row_counts{number}"], arrays[f"rows{number}"]
        try:
            shape = LayerInput.of(layer).groups, LayerInput.of(layer).size
        except (TypeError, KeyError):
            return "a layer is not described"
        if np.any(counts < 0) or rows.shape != (counts.sum(), *shape):
            return "the rows of a layer are not complete"
    return None


def _channels_problem(names: Any, arrays: Feeds) -> str | None:
    """Return the fault in the ranges of channels; None without one."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return "no list of tensors with channels"
    for number, name in enumerate(names):
        found = arrays.get(f"channels{number}")
        if found is None or found.dtype != np.float32 or found.ndim != 2 or len(found) != 2:
            return f"the ranges of the channels of '{name}' are not complete"
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
