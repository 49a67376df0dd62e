"""Settings that exporters write beside a model: `preprocessor_config.json` and `tokenizer.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxq.data.preprocessing import ImageForm, Size
from onnxq.data.reading import read_json
from onnxq.errors import DataError

PREPROCESSOR, TOKENIZER = "preprocessor_config.json", "tokenizer.json"
FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
"""Pillow's numbers of the resampling filters."""


def beside(folder: Path | None) -> list[Path]:
    """Return the places of a model's settings: its folder, and the one above, as in `onnx/model.onnx`."""
    return [] if folder is None else [folder, folder.parent]


def image_form(folder: Path) -> ImageForm | None:
    """Return the image preprocessing that `preprocessor_config.json` beside a model sets; None without one.

    Raises:
        DataError: the file cannot be read, or is no such file.
    """
    path = next((each / PREPROCESSOR for each in beside(folder) if (each / PREPROCESSOR).is_file()), None)
    if path is None:
        return None
    try:
        config = read_json(path)
        return _image_form(config) if isinstance(config, dict) and "image_mean" in config else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read as image preprocessing: give --preprocess FILE.toml"
        ) from error


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
