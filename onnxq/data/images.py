"""Image files, and the description of how an image becomes a model's input."""

import tomllib
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.data.source import Sample
from onnxq.errors import DataError
from onnxq.model.runtime import InputSpec
from onnxq.schemes import Array, Feeds

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")

Size = tuple[int, int]


@dataclass(frozen=True)
class Preprocess:
    """From an image file to an input; the steps are taken in the order of the fields.

    channels       "RGB", "BGR", "RGBA" or "GRAY"
    resize_short   short side in pixels, keeping the aspect ratio
    resize_height  height in pixels, keeping the aspect ratio
    resize         (height, width), ignoring the aspect ratio
    filter         "bicubic", "bilinear", "box", "lanczos" or "nearest", for whichever resize is given
    crop           (height, width) of a centre crop
    mean, std      per channel, in pixel units 0..255: (x - mean) / std
    layout         "NCHW" or "NHWC"
    dtype          NumPy name of the result's type
    input          the model's input; may be left out where it has only one
    """

    channels: str = "RGB"
    resize_short: int | None = None
    resize_height: int | None = None
    resize: Size | None = None
    filter: str = "bilinear"
    crop: Size | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "NCHW"
    dtype: str = "float32"
    input: str | None = None


_IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
PRESETS: dict[str, Preprocess] = {
    "imagenet": Preprocess(resize_short=256, crop=(224, 224), **_IMAGENET),  # type: ignore[arg-type]
    "imagenet-nhwc": Preprocess(resize_short=256, crop=(224, 224), layout="NHWC", **_IMAGENET),  # type: ignore[arg-type]
    "unit": Preprocess(std=(255.0,)),
    "symmetric": Preprocess(mean=(127.5,), std=(127.5,)),
}
"""Tables by name, for `--preprocess imagenet`; "unit" maps pixels to 0..1, "symmetric" to -1..1."""

_CHOICES = {
    "channels": ("RGB", "BGR", "RGBA", "GRAY"),
    "filter": ("bicubic", "bilinear", "box", "lanczos", "nearest"),
    "layout": ("NCHW", "NHWC"),
    "dtype": ("float32", "float16", "float64", "uint8", "int8", "int32", "int64"),
}
_SIZES = ("resize", "crop")


def read_preprocess(text: str) -> Preprocess | None:
    """The preset of that name, or the [preprocess] table of a TOML file (None if it has none).

    Raises:
        DataError: no such preset or file, or a key or value that is not known.
    """
    if text in PRESETS:
        return PRESETS[text]
    path = Path(text)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("preprocess")
    except OSError as error:
        raise DataError(f"--preprocess {text}: no such file, and no preset: presets are {', '.join(PRESETS)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a TOML file: {error}") from error
    return None if table is None else parse_preprocess(table, str(path))


def parse_preprocess(table: dict[str, Any], where: str) -> Preprocess:
    """Check a table and turn it into a `Preprocess`."""
    known = {field.name for field in fields(Preprocess)}
    for key, value in table.items():
        if key not in known:
            raise DataError(f"{where}: [preprocess] has no key '{key}': it takes {', '.join(sorted(known))}")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise DataError(f"{where}: [preprocess] {key} = {value!r}: choose one of {', '.join(_CHOICES[key])}")
        if key in _SIZES and not (isinstance(value, list) and len(value) == 2):
            raise DataError(f"{where}: [preprocess] {key} = {value!r}: give [height, width]")
    converted: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    for key in {"mean", "std"} & set(converted):
        value = converted[key]
        converted[key] = tuple(map(float, value)) if isinstance(value, tuple) else (float(value),)
    return Preprocess(**converted)


def image_samples(path: Path, specs: list[InputSpec], preprocess: Preprocess | None) -> list[Sample]:
    """One sample a file.

    Raises:
        DataError: no description was given, or it does not say which of several inputs it feeds.
    """
    if preprocess is None:
        raise DataError(
            f"{path}: an image, and nothing says how it becomes the model's input: "
            f"give --preprocess FILE.toml or one of {', '.join(PRESETS)}"
        )
    name = preprocess.input
    if name is None:
        if len(specs) != 1:
            raise DataError(f"{path}: the model has {len(specs)} inputs: say which the images feed with 'input' in [preprocess]")
        name = specs[0].name
    return [Sample(path.name, partial(_load, path, preprocess, name))]


def _load(path: Path, preprocess: Preprocess, name: str) -> Feeds:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{path}: images need Pillow: pip install 'onnxq[images]'") from error
    try:
        with Image.open(path) as image:
            image.load()
            return {name: apply(image, preprocess)}
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"sample {path}: not an image, or truncated ({error}): remove it") from error


def apply(image: Any, preprocess: Preprocess) -> Array:
    """Turn a PIL image into a model input, [1, C, H, W] or [1, H, W, C]."""
    from PIL import Image

    mode = {"BGR": "RGB", "GRAY": "L"}.get(preprocess.channels, preprocess.channels)
    image = image.convert(mode)
    size = _target_size(image.size, preprocess)
    if size != image.size:
        image = image.resize(size, getattr(Image.Resampling, preprocess.filter.upper()))
    if preprocess.crop is not None:
        height, width = preprocess.crop
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    pixels: Array = np.asarray(image, np.float32)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if preprocess.channels == "BGR":
        pixels = pixels[:, :, ::-1]
    mean, std = (np.asarray(values, np.float32) for values in (preprocess.mean, preprocess.std))
    pixels = (pixels - mean) / std
    if preprocess.layout == "NCHW":
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[None], dtype=preprocess.dtype)


def _target_size(size: Size, preprocess: Preprocess) -> Size:
    """(width, height) after the resize that is described, if any."""
    width, height = size
    if preprocess.resize_short is not None:
        scale = preprocess.resize_short / min(width, height)
        return round(width * scale), round(height * scale)
    if preprocess.resize_height is not None:
        return round(width * preprocess.resize_height / height), preprocess.resize_height
    if preprocess.resize is not None:
        return preprocess.resize[1], preprocess.resize[0]
    return size
