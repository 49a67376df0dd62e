"""The report of `onnxq preview`: a table, and the images as the model gets them on one sheet."""

import io
import math
from collections.abc import Sequence

import numpy as np

from onnxq.data.preprocessing import Forms
from onnxq.errors import OnnxqError
from onnxq.evaluation.preview import PreviewReport, PreviewRow, ValueRow
from onnxq.report.escaping import printable_report
from onnxq.report.tables import table
from onnxq.types import Array, Feeds

TILE, LINE, MARGIN = 192, 14, 6
"""Height of an image, of a line of text, and the space between tiles, pixels."""
COLUMNS = 4
CHANNELS = (1, 3, 4)


def preview_text(report: PreviewReport) -> str:
    """Format the report: a line for each input of each sample, and the model's answer."""
    report = printable_report(report)
    rows = [["sample", "input", "type", "range", "mean", "answer"]]
    for row in report.rows:
        for i, value in enumerate(row.inputs):
            limits = "" if value.low is None else f"{value.low:.4g}..{value.high:.4g}"
            mean = "" if value.mean is None else f"{value.mean:.4g}"
            first = i == 0
            rows.append(
                [
                    row.sample if first else "",
                    value.name,
                    _type(value),
                    limits,
                    mean,
                    _answer(row) if first else "",
                ]
            )
    return f"{table(rows, left=3)}\n{len(report.rows)} of {report.found} samples"


def _type(value: ValueRow) -> str:
    return f"{value.type}[{','.join(map(str, value.shape))}]"


def _answer(row: PreviewRow) -> str:
    if row.top:
        return ", ".join(f"class {index} ({share:.0%})" for index, share in row.top)
    first = row.outputs[0]
    limits = "" if first.low is None else f" {first.low:.4g}..{first.high:.4g}"
    return f"{first.name} {_type(first)}{limits}"


def contact_sheet(report: PreviewReport, feeds: Sequence[Feeds], forms: Forms) -> bytes:
    """Return a PNG of the samples' images as the model gets them, with names and answers.

    Values are turned back into pixels by the mean and deviation of the preprocessing; without it, the range
    of each image is stretched.

    Raises:
        OnnxqError: no input holds images, or Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise OnnxqError("-o: a contact sheet needs Pillow: pip install pillow") from error
    report = printable_report(report)
    tiles = []
    for row, each in zip(report.rows, feeds, strict=True):
        pixels = next(
            (found for array in each.values() if (found := _pixels(array, forms)) is not None), None
        )
        if pixels is None:
            raise OnnxqError(f"-o: sample {row.sample} holds no image of 1, 3 or 4 channels: leave -o out")
        image = Image.fromarray(pixels).convert("RGB")
        scale = TILE / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        tiles.append((image.resize(size, Image.Resampling.NEAREST), row))
    columns = min(COLUMNS, len(tiles))
    width, height = TILE + MARGIN, TILE + 2 * LINE + MARGIN
    sheet = Image.new(
        "RGB", (columns * width + MARGIN, math.ceil(len(tiles) / columns) * height + MARGIN), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for i, (image, row) in enumerate(tiles):
        x, y = MARGIN + i % columns * width, MARGIN + i // columns * height
        sheet.paste(image, (x, y))
        for line, text in enumerate((row.sample[-28:], _answer(row)[:30])):
            draw.text(
                (x, y + TILE + line * LINE), text.encode("latin-1", "replace").decode("latin-1"), fill="black"
            )
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _pixels(array: Array, forms: Forms) -> Array | None:
    """Return the first image of an input as uint8 [H, W] or [H, W, 3 or 4]; None if it holds none."""
    if array.ndim != 4 or array.dtype.kind not in "fiu" or 0 in array.shape:
        return None
    image, form = array[0].astype(np.float32), forms.image
    nhwc = form.layout == "NHWC" if form is not None else image.shape[0] not in CHANNELS
    image = image if nhwc else image.transpose(1, 2, 0)
    if image.shape[-1] not in CHANNELS:
        return None
    if form is not None:
        image = image * np.asarray(form.std or (1.0,), np.float32) + np.asarray(
            form.mean or (0.0,), np.float32
        )
    else:
        low, high = float(np.nanmin(image)), float(np.nanmax(image))
        image = (image - low) * (255 / (high - low if high > low else 1.0))
    if form is not None and form.channels == "BGR":
        image = image[..., ::-1]
    pixels: Array = np.clip(np.nan_to_num(image) + 0.5, 0, 255).astype(np.uint8)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels
