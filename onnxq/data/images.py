"""Image files, preprocessed as `ImageForm` describes."""

import io
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.data.hugging_face import image_form as image_form_beside
from onnxq.data.preprocessing import PRESETS, Forms, ImageForm, Size
from onnxq.data.reading import FLOAT_BYTES, check_bytes, library_errors
from onnxq.data.sample import Sample
from onnxq.errors import DataError
from onnxq.runtime.sessions import InputSpec
from onnxq.types import Array, Feeds

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the image formats that are decoded, whatever the file's suffix."""
SIXTEEN_BITS = ("PNG", "PPM")
"""Formats whose grey levels of 16 bits Pillow reads as 32-bit numbers, some in old versions only."""
_CHANNELS = {1: "GRAY", 3: "RGB", 4: "RGBA"}


def image_samples(path: Path, specs: list[InputSpec], forms: Forms) -> list[Sample]:
    """Make one sample per file.

    Raises:
        DataError: Image preprocessing is missing, or does not set one of several inputs.
    """
    form = image_form(path, specs, forms)
    return [Sample(path.name, partial(_load_file, path, form))]


def image_form(where: Path, specs: list[InputSpec], forms: Forms) -> ImageForm:
    """Return the image preprocessing with its input."""
    form = guess(specs) if forms.guess else forms.image
    if form is None and forms.beside is not None:
        form = image_form_beside(forms.beside)
    if form is None:
        raise DataError(
            f"{where}: an image, but no preprocessing is set: give --preprocess FILE.toml or one of the "
            f"presets {', '.join(PRESETS)}"
        )
    if form.input is not None:
        return form
    pictures = [spec.name for spec in specs if len(spec.shape) == 4]
    if len(specs) != 1 and len(pictures) == 1 and forms.image is None:
        return replace(form, input=pictures[0])
    if len(specs) != 1:
        raise DataError(
            f"{where}: the model has {len(specs)} inputs: set the one for images with 'input' in [preprocess]"
        )
    return replace(form, input=specs[0].name)


def guess(specs: list[InputSpec]) -> ImageForm:
    """Guess the preprocessing from the shape of the 4-D input; mean and std are ImageNet's for RGB.

    Raises:
        DataError: Not exactly one input is 4-D, or its size or channels are dynamic.
    """
    images = [spec for spec in specs if len(spec.shape) == 4]
    described = ", ".join(f"'{spec.name}' {spec.describe()}" for spec in specs)
    if len(images) != 1 or images[0].dtype is None:
        raise DataError(
            f"--preprocess guess: expected one 4-D input, found {described}: give --preprocess FILE.toml"
        )
    spec = images[0]
    layout = next(
        (layout for layout, axis in (("NCHW", 1), ("NHWC", 3)) if spec.shape[axis] in _CHANNELS), None
    )
    height, width = spec.shape[2:] if layout == "NCHW" else spec.shape[1:3]
    if layout is None or height is None or width is None:
        raise DataError(
            f"--preprocess guess: size or channels of the input are unknown, {described}: give --preprocess "
            "FILE.toml"
        )
    channels = _CHANNELS[spec.shape[1 if layout == "NCHW" else 3] or 0]
    dtype = np.dtype(images[0].dtype)
    preset = "imagenet" if channels == "RGB" else "unit"
    base = PRESETS[preset].image if dtype.kind == "f" else ImageForm(mean=(0.0,), std=(1.0,))
    assert base is not None
    return replace(
        base,
        channels=channels,
        resize_short=None,
        crop=None,
        resize=(height, width),
        layout=layout,
        dtype=dtype.name,
        input=spec.name,
    )


def _load_file(path: Path, form: ImageForm) -> Feeds:
    return {form.input or "": decode(path, form, str(path))}


def decode(source: Path | bytes, form: ImageForm, where: str) -> Array:
    """Decode an image file, or its bytes, into a model input.

    Raises:
        DataError: The file is not an image, is truncated, or its channels do not fit `mean` and `std`.
    """
    with (
        library_errors(f"sample {where}: not an image, or truncated", "remove it"),
        open_image(source if isinstance(source, Path) else io.BytesIO(source), where) as image,
    ):
        image.load()
        return apply(image, form, where)


def open_image(source: Path | io.BytesIO, where: str) -> Any:
    """Open an image of one of `FORMATS`; others, such as EPS, start programs or are no images of pixels.

    Raises:
        DataError: Pillow is not installed. What Pillow raises for a damaged file is passed on.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{where}: images need Pillow: pip install pillow") from error
    Image.init()
    return Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])


def eight_bits(image: Any, where: str) -> Any:
    """Scale grey levels of 16 bits to 0..255, as other images have them; Pillow would cut them off at 255.

    Raises:
        DataError: The grey levels have no known range: 32 bits, or float numbers.
    """
    from PIL import Image

    if image.mode == "F" or (image.mode == "I" and image.format not in SIXTEEN_BITS):
        raise DataError(
            f"sample {where}: its pixels are 32-bit numbers of an unknown range: save it with 8 or 16 bits, "
            "or the preprocessed array as .npy"
        )
    if not image.mode.startswith("I"):
        return image
    levels = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def apply(image: Any, form: ImageForm, where: str = "image") -> Array:
    """Preprocess a PIL image into a model input, [1, C, H, W] or [1, H, W, C].

    Raises:
        DataError: The preprocessed image takes too much memory.
    """
    from PIL import Image

    mode = {"BGR": "RGB", "GRAY": "L"}.get(form.channels, form.channels)
    image = eight_bits(image, where).convert(mode)
    size = _target_size(image.size, form)
    for width, height in (size, form.crop or size):
        check_bytes(where, width * height * len(image.getbands()) * FLOAT_BYTES)
    if size != image.size:
        image = image.resize(size, getattr(Image.Resampling, form.filter.upper()))
    if form.crop is not None:
        height, width = form.crop
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    for key, values in (("mean", form.mean), ("std", form.std)):
        if values is not None and len(values) not in (1, len(image.getbands())):
            raise DataError(
                f"[preprocess] {key}: {len(values)} values for {len(image.getbands())} channels: give one "
                "for all, or one for each"
            )
    pixels: Array = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if form.channels == "BGR":
        pixels = pixels[:, :, ::-1]
    mean, std = (np.asarray(values, np.float32) for values in (form.mean or (0.0,), form.std or (1.0,)))
    if form.layout == "NCHW":  # before the arithmetic: loops over whole rows are four times as fast
        pixels = pixels.transpose(2, 0, 1)
        mean, std = mean[:, None, None], std[:, None, None]
    pixels = pixels.astype(np.float32, order="C")
    pixels -= mean
    pixels /= std
    return np.ascontiguousarray(pixels[None], dtype=form.dtype)


def _target_size(size: Size, form: ImageForm) -> Size:
    """Compute (width, height) after the resize step, if any."""
    width, height = size
    if form.resize_short is not None:
        scale = form.resize_short / min(width, height)
        return max(1, round(width * scale)), max(1, round(height * scale))
    if form.resize_height is not None:
        return max(1, round(width * form.resize_height / height)), form.resize_height
    if form.resize is not None:
        return form.resize[1], form.resize[0]
    return size
