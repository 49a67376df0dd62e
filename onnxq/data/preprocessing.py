"""[preprocess] and its tables: how files become a model's inputs, checked key by key.

Each kind of file has a form, a frozen dataclass whose fields are the keys of its table. The keys of images stand
in [preprocess] itself, the others' in [preprocess.audio], [preprocess.text] and [preprocess.table].
"""

import tomllib
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from onnxq.errors import DataError

Size = tuple[int, int]
DTYPES = ("float32", "float16", "float64", "uint8", "int8", "int16", "int32", "int64")


def _one_of(*choices: str, default: str) -> Any:
    return field(default=default, metadata={"choices": choices})


def _optional(kind: type) -> Any:
    return field(default=None, metadata={"kind": kind})


@dataclass(frozen=True)
class ImageForm:
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
    """From a sound file to an input.

    rate      samples a second that the model takes; files of another rate are refused, ...
    resample  ... or resampled
    mono      the mean of the channels
    window    samples a window, at `rate`: a file gives as many samples as it has windows, a shorter one is filled with zeros
    hop       samples from one window to the next; a whole window by default
    scale     what full scale (1.0) becomes; 32768 for models that take 16-bit values
    layout    "NCT" or "NTC", where the input has three axes
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
    """From the lines of a text file to inputs, by a tokenizer.

    tokenizer    tokenizer.json; relative to the file with this table, else to the data folder
    special      add the tokens that the tokenizer puts around a text
    max_length   tokens kept of a line
    pad_to       tokens that a line is filled up to
    block        cut the file as one text into blocks of so many tokens, for language models; lines do not count
    state        inputs (a glob) that hold what came before: they are fed empty
    ids, mask, types, positions  the inputs that take token numbers, 1 for each that is no filling, 0, and 0, 1, 2, ...
    """

    tokenizer: str = "tokenizer.json"
    special: bool = True
    max_length: int | None = _optional(int)
    pad_to: int | None = _optional(int)
    block: int | None = _optional(int)
    state: str = "past_key_values.*"
    ids: str = "input_ids"
    mask: str = "attention_mask"
    types: str = "token_type_ids"
    positions: str = "position_ids"


@dataclass(frozen=True)
class TableForm:
    """From the rows of a table (.csv, .parquet, a data set saved on disk) to inputs.

    inputs  the columns of each input; without it the column of an input's name, or for one input all but the label's
    label   the column with the label
    image, audio, text  the column whose values are such, to be described as files of that kind are
    """

    inputs: dict[str, list[str]] = field(default_factory=dict)
    label: str | None = _optional(str)
    image: str | None = _optional(str)
    audio: str | None = _optional(str)
    text: str | None = _optional(str)


@dataclass(frozen=True)
class Forms:
    """All that [preprocess] says.

    image  None where nothing says how an image becomes an input
    guess  take the image's form from the shape of the model's input
    cast   convert inputs to the model's types even where that may lose something
    where  the folder that relative paths start from; None for the data folder
    """

    image: ImageForm | None = None
    audio: AudioForm = AudioForm()
    text: TextForm = TextForm()
    table: TableForm = field(default_factory=TableForm)
    guess: bool = False
    cast: bool = False
    where: Path | None = None


_IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
_ZERO = {"mean": (0.0,)}
PRESETS: dict[str, Forms] = {
    "imagenet": Forms(ImageForm(resize_short=256, crop=(224, 224), **_IMAGENET)),  # type: ignore[arg-type]
    "imagenet-nhwc": Forms(ImageForm(resize_short=256, crop=(224, 224), layout="NHWC", **_IMAGENET)),  # type: ignore[arg-type]
    "unit": Forms(ImageForm(mean=(0.0,), std=(255.0,))),
    "symmetric": Forms(ImageForm(mean=(127.5,), std=(127.5,))),
    "guess": Forms(guess=True),
}
"""Forms by name, for `--preprocess imagenet`; "unit" maps pixels to 0..1, "symmetric" to -1..1."""

_TABLES: dict[str, type[Any]] = {"audio": AudioForm, "text": TextForm, "table": TableForm}


def read_forms(text: str | None) -> Forms:
    """The preset of that name, or what the [preprocess] table of a TOML file says.

    Raises:
        DataError: no such preset or file, its keys outside of that table, or a key or value that is not known.
    """
    if text is None:
        return Forms()
    if text in PRESETS:
        return PRESETS[text]
    path = Path(text)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"--preprocess {text}: no such file, and no preset: presets are {', '.join(PRESETS)}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a TOML file: {error}") from error
    if "preprocess" in tables:
        return parse_forms(tables["preprocess"], str(path))
    outside = tables.keys() & {*_TABLES, *(each.name for each in fields(ImageForm))}
    if outside:
        raise DataError(
            f"{path}: {', '.join(sorted(outside))} stand outside of [preprocess]: write that line in front of them"
        )
    return Forms()


def parse_forms(table: dict[str, Any], where: str) -> Forms:
    """Check a [preprocess] table; `where` is the file that it is from."""
    if not isinstance(table, dict):
        raise DataError(f"{where}: preprocess is no table: write [preprocess]")
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
    """A form from its table."""
    if not isinstance(table, dict):
        raise DataError(f"{where} is no table")
    known = {each.name: each for each in fields(kind)}
    if kind is ImageForm:
        also = ", ".join(["cast", *(f"[preprocess.{name}]" for name in _TABLES)])
    else:
        also = ""
    for key in table:
        if key not in known:
            raise DataError(
                f"{where} has no key '{key}': it takes {', '.join(sorted(known))}{also and ', ' + also}"
            )
    return kind(
        **{key: _value(known[key], value, f"{where} {key} = {value!r}") for key, value in table.items()}
    )


def _value(known: Field[Any], value: Any, where: str) -> Any:
    """A key's value, of the type that its field has."""
    choices, kind = known.metadata.get("choices"), known.metadata.get("kind")
    if choices is not None:
        if value not in choices:
            raise DataError(f"{where}: choose one of {', '.join(choices)}")
        return value
    if kind == "size":
        if not (
            isinstance(value, list)
            and len(value) == 2
            and all(type(size) is int and size > 0 for size in value)
        ):
            raise DataError(f"{where}: give [height, width]")
        return tuple(value)
    if kind == "floats":
        values = value if isinstance(value, list) else [value]
        if not values or not all(type(each) in (int, float) for each in values):
            raise DataError(f"{where}: give a number, or one a channel")
        return tuple(map(float, values))
    if isinstance(known.default, float):
        kind, value = float, float(value) if type(value) is int else value
    elif kind is None:
        kind = type(known.default) if isinstance(known.default, bool | str) else dict
    if type(value) is not kind or (type(value) is int and value < 1):
        raise DataError(f"{where}: give {_KINDS[kind]}")
    return value


_KINDS: dict[type, str] = {
    int: "a number above 0",
    str: "a text",
    bool: "true or false",
    float: "a number",
    dict: "a table",
}
