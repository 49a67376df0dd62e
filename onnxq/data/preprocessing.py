"""Preprocessing options: [preprocess] and its subtables, validated key by key.

Each kind of file has a form, a frozen dataclass whose fields are the keys of its table. [preprocess] itself
has the keys of images; [preprocess.audio], [preprocess.text] and [preprocess.table] have the others.
"""

import math
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from onnxq.data.reading import FLOAT_BYTES, MOST_BYTES, MOST_CHARACTERS, read_toml
from onnxq.errors import DataError

Size = tuple[int, int]
MOST_NUMBER = MOST_BYTES // (2 * FLOAT_BYTES)
"""Largest size, length or rate: so many int64 values fill the memory of a sample."""
LEAST, LARGEST = 1.2e-38, 3.4e38
"""Bounds of the numbers that float32 holds in full precision."""
DTYPES = ("float32", "float16", "float64", "uint8", "int8", "int16", "int32", "int64")


def _one_of(*choices: str, default: str) -> Any:
    return field(default=default, metadata={"choices": choices})


def _optional(kind: type, most: int = MOST_NUMBER) -> Any:
    return field(default=None, metadata={"kind": kind, "most": most})


@dataclass(frozen=True)
class ImageForm:
    """Preprocessing of image files; steps run in the order of the fields.

    channels       "RGB", "BGR", "RGBA" or "GRAY"
    resize_short   length of the short side, pixels; keeps the aspect ratio
    resize_height  height, pixels; keeps the aspect ratio
    resize         (height, width), pixels; ignores the aspect ratio
    filter         resampling filter: "bicubic", "bilinear", "box", "lanczos" or "nearest"
    crop           (height, width) of a centre crop, pixels
    mean, std      per channel, in pixel units 0..255: (x - mean) / std
    layout         "NCHW" or "NHWC"
    dtype          NumPy name of the input's type
    input          name of the model's input; optional for a model with one input
    """

    channels: str = _one_of("RGB", "BGR", "RGBA", "GRAY", default="RGB")
    resize_short: int | None = _optional(int)
    resize_height: int | None = _optional(int)
    resize: Size | None = field(default=None, metadata={"kind": "size"})
    filter: str = _one_of("bicubic", "bilinear", "box", "lanczos", "nearest", default="bilinear")
    crop: Size | None = field(default=None, metadata={"kind": "size"})
    mean: tuple[float, ...] | None = field(default=None, metadata={"kind": "floats"})
    std: tuple[float, ...] | None = field(default=None, metadata={"kind": "floats"})
    layout: str = _one_of("NCHW", "NHWC", default="NCHW")
    dtype: str = _one_of(*DTYPES, default="float32")
    input: str | None = _optional(str)


@dataclass(frozen=True)
class AudioForm:
    """Preprocessing of audio files.

    rate      sample rate of the model, Hz; other files are an error, ...
    resample  ... or are resampled
    mono      average the channels
    window    frames per window, at `rate`; each window of a file is one sample, padded with zeros if too
              short
    hop       frames between windows; one window by default
    scale     factor of full scale (1.0); 32768 for models of 16-bit values
    layout    "NCT" or "NTC", for inputs with three axes
    dtype, input  as for images
    """

    rate: int | None = _optional(int)
    resample: bool = False
    mono: bool = True
    window: int | None = _optional(int)
    hop: int | None = _optional(int)
    scale: float = 1.0
    layout: str = _one_of("NCT", "NTC", default="NCT")
    dtype: str = _one_of(*DTYPES, default="float32")
    input: str | None = _optional(str)


@dataclass(frozen=True)
class TextForm:
    """Preprocessing of text files with a tokenizer.

    tokenizer    path of tokenizer.json, relative to the file with this table or to the data folder
    special      add the special tokens of the tokenizer
    max_length   most tokens per line
    pad_to       length that lines are padded to, tokens
    block        tokens per block: split the whole file into blocks instead of lines, for language models
    state        glob of the inputs with a state, such as a key-value cache; they start empty
    ids, mask, types, positions  inputs for token ids, attention mask, token types (0) and positions
    """

    tokenizer: str = "tokenizer.json"
    special: bool = True
    max_length: int | None = _optional(int, MOST_CHARACTERS)
    pad_to: int | None = _optional(int, MOST_CHARACTERS)
    block: int | None = _optional(int, MOST_CHARACTERS)
    state: str = "past_key_values.*"
    ids: str = "input_ids"
    mask: str = "attention_mask"
    types: str = "token_type_ids"
    positions: str = "position_ids"


@dataclass(frozen=True)
class TableForm:
    """Preprocessing of table rows (.csv, .parquet, Hugging Face data sets on disk).

    inputs  columns of each input; by default the column with the input's name, or all but the label for one
            input
    label   column of the label
    image, audio, text  column with images, audio or text, preprocessed like files of that kind
    """

    inputs: dict[str, list[str]] = field(default_factory=dict)
    label: str | None = _optional(str)
    image: str | None = _optional(str)
    audio: str | None = _optional(str)
    text: str | None = _optional(str)


@dataclass(frozen=True)
class Forms:
    """Preprocessing of all kinds of files.

    image  preprocessing of images; None if it is not set
    guess  guess the preprocessing of images from the shape of the model's input
    cast   convert inputs to the model's types even if values change
    where  base folder of relative paths; None for the data folder
    beside  folder of the model, whose settings are used where no others are; None for none
    """

    image: ImageForm | None = None
    audio: AudioForm = AudioForm()
    text: TextForm = TextForm()
    table: TableForm = field(default_factory=TableForm)
    guess: bool = False
    cast: bool = False
    where: Path | None = None
    beside: Path | None = None


_IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
_ZERO = {"mean": (0.0,)}
PRESETS: dict[str, Forms] = {
    "imagenet": Forms(ImageForm(resize_short=256, crop=(224, 224), **_IMAGENET)),  # type: ignore[arg-type]
    "imagenet-nhwc": Forms(ImageForm(resize_short=256, crop=(224, 224), layout="NHWC", **_IMAGENET)),  # type: ignore[arg-type]
    "unit": Forms(ImageForm(mean=(0.0,), std=(255.0,))),
    "symmetric": Forms(ImageForm(mean=(127.5,), std=(127.5,))),
    "guess": Forms(guess=True),
}
"""Presets of `--preprocess`; "unit" maps pixels to 0..1, "symmetric" to -1..1."""

_TABLES: dict[str, type[Any]] = {"audio": AudioForm, "text": TextForm, "table": TableForm}


def read_forms(text: str | None) -> Forms:
    """Return a preset by name, or read [preprocess] of a TOML file; None gives the defaults.

    Raises:
        DataError: The preset or file does not exist, keys are outside [preprocess], or a key or value is
        invalid.
    """
    if text is None:
        return Forms()
    if text in PRESETS:
        return PRESETS[text]
    path = Path(text)
    try:
        tables = read_toml(path)
    except OSError as error:
        raise DataError(
            f"--preprocess {text}: neither a file nor a preset: presets are {', '.join(PRESETS)}"
        ) from error
    if "preprocess" in tables:
        return parse_forms(tables["preprocess"], str(path))
    outside = tables.keys() & {*_TABLES, *(each.name for each in fields(ImageForm))}
    if outside:
        raise DataError(
            f"{path}: {', '.join(sorted(outside))} outside of [preprocess]: add the line [preprocess] "
            "before them"
        )
    return Forms()


def parse_forms(table: dict[str, Any], where: str) -> Forms:
    """Validate a [preprocess] table; `where` is its file."""
    if not isinstance(table, dict):
        raise DataError(f"{where}: preprocess is not a table: write [preprocess]")
    inner = {
        key: _parse(kind, table[key], f"{where}: [preprocess.{key}]")
        for key, kind in _TABLES.items()
        if key in table
    }
    plain = {key: value for key, value in table.items() if key not in (*_TABLES, "cast")}
    cast = table.get("cast", False)
    if not isinstance(cast, bool):
        raise DataError(f"{where}: [preprocess] cast = {cast!r}: give true or false")
    image = _parse(ImageForm, plain, f"{where}: [preprocess]") if plain else None
    return replace(Forms(image, cast=cast, where=Path(where).parent), **inner)


def _parse(kind: type[Any], table: dict[str, Any], where: str) -> Any:
    """Validate a table and make its form."""
    if not isinstance(table, dict):
        raise DataError(f"{where} is not a table: write it in brackets on a line of its own")
    known = {each.name: each for each in fields(kind)}
    if kind is ImageForm:
        also = ", ".join(["cast", *(f"[preprocess.{name}]" for name in _TABLES)])
    else:
        also = ""
    for key in table:
        if key not in known:
            raise DataError(
                f"{where} has no key '{key}': choose from {', '.join(sorted(known))}{also and ', ' + also}"
            )
    return kind(
        **{key: _value(known[key], value, f"{where} {key} = {value!r}") for key, value in table.items()}
    )


def _value(known: Field[Any], value: Any, where: str) -> Any:
    """Validate the value of a key and convert it to the type of its field."""
    choices, kind = known.metadata.get("choices"), known.metadata.get("kind")
    if choices is not None:
        if value not in choices:
            raise DataError(f"{where}: choose one of {', '.join(choices)}")
        return value
    if kind == "size":
        if not (
            isinstance(value, list)
            and len(value) == 2
            and all(type(size) is int and 0 < size <= MOST_NUMBER for size in value)
        ):
            raise DataError(f"{where}: give [height, width]")
        return tuple(value)
    if kind == "floats":
        values = value if isinstance(value, list) else [value]
        if not values or not all(map(_is_number, values)):
            raise DataError(f"{where}: give {_KINDS[float]}, or a list with one per channel")
        if known.name == "std" and min(map(abs, values)) < LEAST:
            raise DataError(f"{where}: pixels are divided by it: give numbers above 0")
        return tuple(map(float, values))
    if isinstance(known.default, float):
        kind, value = float, float(value) if type(value) is int and _is_number(value) else value
    elif kind is None:
        kind = type(known.default) if isinstance(known.default, bool | str) else dict
    most = known.metadata.get("most", MOST_NUMBER)
    if type(value) is not kind or not _is_valid(value, most):
        upper = f", at most {most:,}" if kind is int else ""
        raise DataError(f"{where}: give {_KINDS[kind]}{upper}")
    return value


def _is_valid(value: Any, most: int) -> bool:
    """Tell whether a value of the right type is in its range."""
    if isinstance(value, dict):
        return all(map(_is_columns, value.values()))
    if isinstance(value, float):
        return _is_number(value)
    return type(value) is not int or 1 <= value <= most


def _is_number(value: Any) -> bool:
    """Tell whether a value of TOML is a number that float32 holds."""
    return type(value) in (int, float) and abs(value) < LARGEST and not math.isnan(value)


def _is_columns(value: Any) -> bool:
    """Tell whether a value names one column or several."""
    return isinstance(value, str) or (
        isinstance(value, list) and len(value) > 0 and all(isinstance(each, str) for each in value)
    )


_KINDS: dict[type, str] = {
    int: "a number above 0",
    str: "a text",
    bool: "true or false",
    float: "a number",
    dict: "a column, or a list of columns, for each input",
}
