"""Table rows as samples: `.csv`, `.parquet`, and Hugging Face data sets saved on disk (Arrow files)."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.data.audio import audio_spec, shape_as, waveform
from onnxq.data.images import decode, image_form
from onnxq.data.preprocessing import Forms
from onnxq.data.reading import MOST_ROW_BYTES, check_count, library_errors, read_json
from onnxq.data.sample import Sample
from onnxq.data.text import Tokenize, tokenizer_of
from onnxq.errors import DataError, first_line
from onnxq.runtime.sessions import InputSpec
from onnxq.types import Array, Feeds

Row = dict[str, Any]
NEEDED = "parquet and Arrow files need pyarrow: pip install pyarrow"


@dataclass(frozen=True)
class Columns:
    """Columns of a table and the inputs that they feed.

    specs     inputs of the model
    forms     preprocessing
    inputs    columns of numbers by input
    tokenize  tokenizer of the text column; None without one
    """

    specs: list[InputSpec]
    forms: Forms
    inputs: dict[str, list[str]]
    tokenize: Tokenize | None

    def feeds(self, row: Row, where: str) -> Feeds:
        """Make the feeds of one row; `where` names it in errors."""
        table, feeds = self.forms.table, dict[str, Array]()
        if table.image is not None:
            form = image_form(Path(where), self.specs, self.forms)
            feeds[form.input or ""] = decode(_content(row[table.image], where), form, where)
        if table.audio is not None:
            spec = audio_spec(Path(where), self.specs, self.forms)
            feeds[spec.name] = shape_as(
                waveform(_content(row[table.audio], where), self.forms.audio, where), self.forms.audio, spec
            )
        if self.tokenize is not None:
            feeds |= self.tokenize.feeds(str(row[table.text or ""]), where)
        specs = {spec.name: spec for spec in self.specs}
        for name, columns in self.inputs.items():
            array = _array([row[column] for column in columns], columns, specs[name].dtype, where)
            feeds[name] = _shaped(array, specs[name])
        return feeds


def _content(value: Any, where: str) -> bytes:
    """Return the file inside a row: bytes, or {bytes, path} as the Hugging Face library stores it."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise DataError(
            f"sample {where}: the column holds {type(content).__name__}, not the bytes of a file: save the "
            "data set with its files embedded"
        )
    return content


def _array(values: list[Any], columns: list[str], dtype: Any, where: str) -> Array:
    """Make the array of one input: one column as it is, several stacked; parse text as the input's type."""
    nothing = next(
        (
            column
            for column, value in zip(columns, values, strict=True)
            if value is None or (isinstance(value, str) and not value)
        ),
        None,
    )
    if nothing is not None:
        raise DataError(f"sample {where}: column '{nothing}' is empty: fill it, or remove the row")
    try:
        if isinstance(values[0], str) and dtype is not None and np.dtype(dtype).kind != "O":
            values = [_parsed(value, np.dtype(dtype)) for value in values]
        array = np.array(values[0] if len(columns) == 1 and not isinstance(values[0], str) else values)
        return array.reshape(-1) if array.ndim == 0 else array
    except (ValueError, OverflowError, TypeError) as error:
        shown = ", ".join(columns[:3])
        raise DataError(
            f"sample {where}: column {shown}: {first_line(error)}: correct the row or remove it"
        ) from error


def _parsed(text: str, dtype: np.dtype[Any]) -> Any:
    """Parse a value of a type; NumPy before 2 lets integers that do not fit wrap around."""
    if dtype.kind == "b":
        return _truth(text)
    if dtype.kind in "iu":
        number, limits = int(text), np.iinfo(dtype)
        if not limits.min <= number <= limits.max:
            raise OverflowError(f"{number} does not fit into {dtype}")
    return dtype.type(text)


def _truth(text: str) -> bool:
    """Parse a boolean; NumPy takes any text for true."""
    found = {"0": False, "false": False, "1": True, "true": True}.get(text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} is not true or false")
    return found


def _shaped(array: Array, spec: InputSpec) -> Array:
    """Reshape a row to an input of the same size, such as 784 columns to an image of 28 x 28."""
    shape = [1, *spec.shape[1:]]
    if (
        array.ndim != 1
        or len(spec.shape) < 3
        or None in shape
        or array.size != np.prod([size or 1 for size in shape])
    ):
        return array
    return array.reshape([size or 1 for size in shape])


def _columns(path: Path, names: Sequence[str], specs: list[InputSpec], forms: Forms) -> Columns:
    """Match the columns of a table with the model's inputs, or raise DataError."""
    table = forms.table
    described = [name for name in (table.image, table.audio, table.text) if name is not None]
    inputs = {name: [each] if isinstance(each, str) else list(each) for name, each in table.inputs.items()}
    known = set(names)
    unknown = [name for name in inputs if name not in {spec.name for spec in specs}]
    if unknown:
        raise DataError(
            f"[preprocess.table] inputs: the model has no input '{unknown[0]}': choose from "
            f"{', '.join(s.name for s in specs)}"
        )
    if not inputs and not described:
        named = {spec.name: [spec.name] for spec in specs if spec.name in known}
        rest = [name for name in names if name != table.label]
        inputs = {specs[0].name: rest} if len(specs) == 1 and not named else named
        lacking = [spec.name for spec in specs if spec.name not in inputs]
        if lacking:
            raise DataError(
                f"{path}: no column for input '{lacking[0]}': set its columns in 'inputs' of "
                "[preprocess.table]"
            )
    wanted = [
        *described,
        *([table.label] if table.label is not None else []),
        *(c for columns in inputs.values() for c in columns),
    ]
    there = Counter(names)
    missing = [name for name in wanted if name not in there]
    repeated = next((name for name in wanted if there[name] > 1), None)
    if repeated is not None:
        raise DataError(f"{path}: {there[repeated]} columns are named '{repeated}': rename them")
    if missing:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        raise DataError(f"{path}: no column '{missing[0]}': choose from {', '.join(names[:10])}{more}")
    tokenize = tokenizer_of(path.parent, specs, forms) if table.text is not None else None
    return Columns(specs, forms, inputs, tokenize)


def csv_samples(path: Path, specs: list[InputSpec], forms: Forms) -> list[Sample]:
    """Make one sample per row; memory holds only the offset of each row."""
    try:
        rows = _csv_rows(path, 0)
        names = next(rows)[1]
        columns = _columns(path, names, specs, forms)
        label = names.index(forms.table.label) if forms.table.label is not None else None
        samples = []
        for number, (start, row) in enumerate(rows, start=1):
            if len(row) != len(names):
                raise DataError(
                    f"sample {path.name}:{number}: the row has {len(row)} values, but the header "
                    f"{len(names)}: correct the row"
                )
            load = partial(_load_csv, path, start, names, columns, f"{path.name}:{number}")
            samples.append(Sample(f"{path.name}:{number}", load, row[label] if label is not None else None))
            check_count(path, number)
        return samples
    except StopIteration as error:
        raise DataError(f"{path}: the table is empty: add a header and rows") from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot read the file: {error.strerror}: check the path and its permissions"
        ) from error


def _csv_rows(path: Path, start: int) -> Iterator[tuple[int, list[str]]]:
    """Iterate over (byte offset, values) of rows from an offset on; quoted values may have line breaks."""
    offset = begin = start

    def lines() -> Iterator[str]:
        nonlocal offset
        with open(path, "rb") as stream:
            stream.seek(start)
            while line := stream.readline(MOST_ROW_BYTES + 1):
                offset += len(line)
                if offset - begin > MOST_ROW_BYTES:
                    raise DataError(
                        f"{path}: a row of more than {MOST_ROW_BYTES >> 20} MiB at byte {begin}: check the "
                        "line ends and quotes"
                    )
                yield line.decode("utf-8-sig" if offset == len(line) else "utf-8")

    reader = csv.reader(lines())
    while True:
        begin = offset
        try:
            row = next(reader, None)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not a CSV in UTF-8: {first_line(error)}: save it as UTF-8") from error
        if row is None:
            return
        if row:
            yield begin, row


def _load_csv(path: Path, start: int, names: list[str], columns: Columns, where: str) -> Feeds:
    _, row = next(_csv_rows(path, start))
    return columns.feeds(dict(zip(names, row, strict=True)), where)


def parquet_samples(path: Path, specs: list[InputSpec], forms: Forms) -> list[Sample]:
    """Make one sample per row; memory holds at most two row groups."""
    pyarrow = _pyarrow(path)
    with library_errors(f"{path}: not a parquet file, or truncated", "save it again"):
        metadata = pyarrow.parquet.read_metadata(path)
        names = pyarrow.parquet.read_schema(path).names
        counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return _row_samples(path, names, counts, specs, forms)


def arrow_samples(folder: Path, specs: list[InputSpec], forms: Forms) -> list[Sample]:
    """Make one sample per row of a data set saved on disk; memory holds at most two batches.

    Raises:
        DataError: A file is missing or damaged, or the data set selects rows of another one.
    """
    state = _state(folder)
    if state.get("_indices_files"):
        raise DataError(
            f"{folder}: the data set selects rows of another one: call flatten_indices() before "
            "save_to_disk()"
        )
    samples: list[Sample] = []
    for entry in state["_data_files"]:
        path = folder / str(entry["filename"])
        if path.parent != folder:
            raise DataError(
                f"{folder}/state.json: names {path}, outside the data set: save the data set again"
            )
        names, counts = _batches(path)
        samples += _row_samples(path, names, counts, specs, forms)
    return samples


def arrow_folders(path: Path) -> list[Path]:
    """Find the data sets saved in `path`, or `path` itself if it is one."""
    candidates = [path, *sorted(each for each in path.iterdir() if each.is_dir())] if path.is_dir() else []
    return [
        folder
        for folder in candidates
        if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    ]


def _state(folder: Path) -> dict[str, Any]:
    path = folder / "state.json"
    try:
        state = read_json(path)
        _ = [entry["filename"] for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not the state of a saved data set ({type(error).__name__}): save the data set again"
        ) from error
    return dict(state)


def _batches(path: Path) -> tuple[list[str], list[int]]:
    """Read the column names and the number of rows of each batch of an Arrow stream file."""
    pyarrow = _pyarrow(path)
    with (
        library_errors(f"{path}: not an Arrow file, or truncated", "save the data set again"),
        pyarrow.memory_map(str(path)) as source,
        pyarrow.ipc.open_stream(source) as reader,
    ):
        return reader.schema.names, [batch.num_rows for batch in reader]


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{path}: {NEEDED}") from error
    return pyarrow


def _row_samples(
    path: Path, names: list[str], counts: list[int], specs: list[InputSpec], forms: Forms
) -> list[Sample]:
    check_count(path, sum(counts))
    columns = _columns(path, names, specs, forms)
    labels = _labels(path, len(counts), forms.table.label)
    samples: list[Sample] = []
    for group, count in enumerate(counts):
        for i in range(count):
            name = f"{path.name}[{len(samples)}]"
            samples.append(
                Sample(
                    name,
                    partial(_load_row, path, group, i, columns, name),
                    labels[len(samples)] if labels else None,
                )
            )
    return samples


def _labels(path: Path, groups: int, column: str | None) -> list[str] | None:
    if column is None:
        return None
    batches = (_read_batch(path, group, [column]) for group in range(groups))
    with library_errors(f"{path}: damaged", "save it again"):
        return [str(value) for batch in batches for value in batch.column(column).to_pylist()]


def _load_row(path: Path, group: int, index: int, columns: Columns, where: str) -> Feeds:
    batch = _batch(path, group)
    with library_errors(f"sample {where}: damaged, or of a kind that is no array", "save it again"):
        row = {
            name: _plain(batch.column(name)[index])
            for name in batch.schema.names
            if name != columns.forms.table.label
        }
    return columns.feeds(row, where)


def _plain(scalar: Any) -> Any:
    """Convert a table value; numbers and lists of numbers become arrays of their type."""
    leaf, value = scalar.type, scalar.as_py()
    while hasattr(leaf, "value_type"):
        leaf = leaf.value_type
    kind = _numpy_type(leaf)
    return np.array(value, kind) if value is not None and kind.kind in "biuf" else value


@lru_cache
def _numpy_type(leaf: Any) -> np.dtype[Any]:
    """Return the NumPy type of an Arrow type, `object` where it has none."""
    import pyarrow

    try:  # not to_pandas_dtype, which needs pandas for times with a zone, and for all types before pyarrow 16
        empty: Array = pyarrow.array([], leaf).to_numpy(zero_copy_only=False)
    except NotImplementedError:
        return np.dtype(np.object_)
    return empty.dtype


@lru_cache(maxsize=2)
def _batch(path: Path, group: int) -> Any:
    """Read a group of rows; cache the last two, because samples are read in order."""
    return _read_batch(path, group)


def _read_batch(path: Path, group: int, columns: list[str] | None = None) -> Any:
    """Read columns of a group of rows; all columns for None.

    The offsets in the file are checked, because Arrow reads outside of its memory where they are wrong.
    """
    pyarrow = _pyarrow(path)
    with library_errors(f"{path}: truncated or damaged", "save it again"):
        if path.suffix.lower() == ".parquet":
            batch = pyarrow.parquet.ParquetFile(path).read_row_group(group, columns=columns)
        else:
            with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as reader:
                batch = next(batch for i, batch in enumerate(reader) if i == group)
        batch.validate(full=True)
        return batch
