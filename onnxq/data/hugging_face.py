"""Settings that exporters write beside a model: `preprocessor_config.json` and `tokenizer.json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxq.data.log_mel import LogMel
from onnxq.data.preprocessing import ImageForm, Size
from onnxq.data.reading import check_bytes, read_json
from onnxq.errors import DataError

PREPROCESSOR, PROCESSOR, TOKENIZER = "preprocessor_config.json", "processor_config.json", "tokenizer.json"
PARTS = ("image_processor", "feature_extractor")
"""Tables of `processor_config.json` that hold what `preprocessor_config.json` holds."""
FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
"""Pillow's numbers of the resampling filters."""


@dataclass(frozen=True)
class SoundForm:
    """Preprocessing of sounds.

    rate       sample rate, Hz
    normalize  bring each sound to mean 0 and variance 1
    spectrum   the spectrogram that the model takes; None for the sound itself
    """

    rate: int
    normalize: bool = False
    spectrum: LogMel | None = None


def beside(folder: Path | None) -> list[Path]:
    """Return the places of a model's settings: its folder, and the one above, as in `onnx/model.onnx`."""
    return [] if folder is None else [folder, folder.parent]


def image_form(folder: Path) -> ImageForm | None:
    """Return the image preprocessing that `preprocessor_config.json` beside a model sets; None without one.

    Raises:
        DataError: the file cannot be read, or is no such file.
    """
    path, tables = _settings(folder)
    config = next((table for table in tables if "image_mean" in table), None)
    if config is None:
        return None
    try:
        return _image_form(config)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read as image preprocessing: give --preprocess FILE.toml"
        ) from error


def sound_form(folder: Path) -> SoundForm | None:
    """Return the preprocessing of sounds that is set beside a model; None without one.

    Raises:
        DataError: the file cannot be read, or computes features that onnxq does not know.
    """
    path, tables = _settings(folder)
    config = next((table for table in tables if "sampling_rate" in table), None)
    if config is None:
        return None
    remedy = "give --preprocess FILE.toml with [preprocess.audio], or record the application's inputs"
    try:
        rate = _count(config["sampling_rate"])
        if "n_fft" not in config and config.get("feature_size", 1) == 1:
            return SoundForm(rate, normalize=bool(config.get("do_normalize", False)))
        if "hop_length" in config and "chunk_length" in config:
            sizes = (config.get("feature_size", 80), config.get("n_fft", 400), config["hop_length"])
            bins, window, hop = map(_count, sizes)
            length = _count(config.get("n_samples", config["chunk_length"] * rate))
            check_bytes(str(path), 16 * length * window / hop)
            return SoundForm(rate, spectrum=LogMel(rate, bins, window, hop, length))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as preprocessing of sounds: {remedy}") from error
    kind = config.get("feature_extractor_type", "this feature extractor")
    raise DataError(f"{path}: onnxq does not compute the features of {kind}: {remedy}")


def _settings(folder: Path) -> tuple[Path | None, list[Mapping[str, Any]]]:
    """Return the file of settings beside a model, and its tables.

    Raises:
        DataError: the file cannot be read.
    """
    for name in (PREPROCESSOR, PROCESSOR):
        path = next((each / name for each in beside(folder) if (each / name).is_file()), None)
        if path is None:
            continue
        try:
            config = read_json(path)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: is no JSON file: save it again, or give --preprocess FILE.toml"
            ) from error
        if not isinstance(config, dict):
            raise DataError(f"{path}: is no table of settings: save it again, or give --preprocess FILE.toml")
        tables = [config] if name == PREPROCESSOR else [config.get(part) for part in PARTS]
        return path, [table for table in tables if isinstance(table, dict)]
    return None, []


def _count(value: Any) -> int:
    """Return a number above 0.

    Raises:
        ValueError: it is none.
    """
    if type(value) not in (int, float) or not 0 < value < 1 << 31:
        raise ValueError(value)
    return int(value)


def _image_form(config: Mapping[str, Any]) -> ImageForm:
    rescale = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    mean, std = [0.0], [1.0]
    if config.get("do_normalize", True):
        mean, std = config["image_mean"], config["image_std"]
    values: dict[str, Any] = {
        "mean": tuple(float(each) / rescale for each in mean),
        "std": tuple(float(each) / rescale for each in std),
    }
    if config.get("do_resize", True) and config.get("size") is not None:
        size = config["size"]
        if isinstance(size, dict) and "shortest_edge" in size:
            values["resize_short"] = int(size["shortest_edge"])
        else:
            values["resize"] = _size(size)
        values["filter"] = FILTERS[int(config.get("resample", 2))]
    if config.get("do_center_crop", False):
        values["crop"] = _size(config.get("crop_size", config.get("size")))
    return ImageForm(**values)


def _size(value: Any) -> Size:
    """Return (height, width) of a number or of a table."""
    if isinstance(value, dict):
        return int(value["height"]), int(value["width"])
    return int(value), int(value)
