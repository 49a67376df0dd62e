"""Python objects as samples: arrays, dicts, lists, generators, loaders of torch, data sets, and functions.

The samples are stored in a temporary folder, because they are needed more than once and may exceed memory.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.data.reading import library_errors
from onnxq.errors import DataError
from onnxq.graph.scratch import ScratchFolder, writing_temporaries
from onnxq.runtime.npz import npz_bytes
from onnxq.runtime.sessions import InputSpec
from onnxq.types import Array, Feeds

LABELS = "labels.csv"
"""Name of the file with the labels of stored samples."""
LABEL_KEYS = ("label", "labels")
"""Keys of a dict that hold its label, unless the model has such an input."""


@contextmanager
def stored_samples(data: Any, specs: Sequence[InputSpec], most: int | None) -> Iterator[Path]:
    """Store the samples of a Python object as `.npz` files in a folder, for the block.

    Args:
        data: an array or a dict of arrays with a sample a row; an iterable of samples, such as a list, a
            generator, a DataLoader or a data set; or a function that returns one of these. A sample is a dict
            of arrays by input name, or one array for a model with one input; `(sample, label)` adds a label.
            Batches are divided into samples where the model's batch size is 1 or free.
        specs: the model's inputs.
        most: most samples; None for all.

    Yields:
        The folder; labels are in its file `LABELS`, if there are any.

    Raises:
        DataError: the object is of another kind, raises an error, or holds no sample.
    """
    with ScratchFolder() as folder:
        labels: list[tuple[str, str]] = []
        count = 0
        with writing_temporaries():
            for count, (feeds, label) in enumerate(islice(_samples(data, specs), most), start=1):
                name = f"{count - 1:06d}.npz"
                (folder / name).write_bytes(npz_bytes(feeds))
                if label is not None:
                    labels.append((name, label))
            if labels:
                with open(folder / LABELS, "w", newline="", encoding="utf-8") as stream:
                    csv.writer(stream).writerows([("file", "label"), *labels])
        if not count:
            raise DataError(f"{_named(data)}: holds no sample: give at least one")
        yield folder


def _named(data: Any) -> str:
    return f"the data, of type {type(data).__name__}"


def _samples(data: Any, specs: Sequence[InputSpec]) -> Iterator[tuple[Feeds, str | None]]:
    """Yield all samples with their labels."""
    data = _called(data) if callable(data) and not isinstance(data, Iterable) else data
    if _is_array(data) or isinstance(data, Mapping):
        yield from _divided(data, specs, "0")
        return
    for index, item in enumerate(_items(data)):
        yield from _divided(item, specs, str(index))


def _called(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:  # the user's function may raise anything
        raise DataError(f"the data function raised {type(error).__name__}: {error}: correct it") from error


def _items(data: Any) -> Iterator[Any]:
    """Iterate over an object of the user, which may raise anything."""
    sequence = hasattr(data, "__len__") and hasattr(data, "__getitem__")
    if not isinstance(data, Iterable) and not sequence:
        raise DataError(f"{_named(data)}: is no array, dict, iterable or function: give one of these")
    try:
        if isinstance(data, Iterable):
            yield from data
        else:
            for index in range(len(data)):
                yield data[index]
    except (DataError, GeneratorExit):
        raise
    except Exception as error:
        raise DataError(f"{_named(data)}: raised {type(error).__name__}: {error}: correct it") from error


def _divided(item: Any, specs: Sequence[InputSpec], where: str) -> Iterator[tuple[Feeds, str | None]]:
    """Yield the samples of an item: one, or each row of a batch."""
    label: Any = None
    if isinstance(item, tuple | list) and len(item) == 2 and len(specs) != 2:
        item, label = item
    if isinstance(item, Mapping):
        keys = [key for key in LABEL_KEYS if key in item and key not in {spec.name for spec in specs}]
        label = item[keys[0]] if keys and label is None else label
        known = [spec.name for spec in specs if spec.name in item]
        names = known if len(known) == len(specs) else [str(key) for key in item if key not in keys]
        feeds = {name: _array(item[name], f"{where}, '{name}'") for name in names}
    elif len(specs) == 1:
        feeds = {specs[0].name: _array(item, where)}
    elif isinstance(item, tuple | list) and len(item) == len(specs):
        feeds = {spec.name: _array(each, where) for spec, each in zip(specs, item, strict=True)}
    else:
        expected = ", ".join(spec.name for spec in specs)
        raise DataError(
            f"sample {where} is a {type(item).__name__}: give a dict of arrays with the keys [{expected}]"
        )
    rows = _rows(feeds, specs)
    if rows is None:
        yield feeds, None if label is None else _text(label, where)
        return
    labels = [None] * rows if label is None else list(_array(label, where).reshape(-1))
    if len(labels) != rows:
        raise DataError(f"sample {where}: has {rows} rows and {len(labels)} labels: give one label for each")
    for row in range(rows):
        text = None if labels[row] is None else _text(labels[row], where)
        yield {name: array[row : row + 1] for name, array in feeds.items()}, text


def _rows(feeds: Feeds, specs: Sequence[InputSpec]) -> int | None:
    """Return the number of samples in a batch; None if it is one sample."""
    counts = set()
    for spec in specs:
        array = feeds.get(spec.name)
        if array is None or array.ndim != len(spec.shape) or array.ndim < 2 or spec.shape[0] not in (None, 1):
            return None
        counts.add(len(array))
    return counts.pop() if len(counts) == 1 and counts != {1} else None


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (hasattr(value, "__array__") and not isinstance(value, Mapping))


def _array(value: Any, where: str) -> Array:
    with library_errors(f"sample {where}: not an array of one type and shape", "give NumPy arrays"):
        if hasattr(value, "detach"):  # a tensor of torch, perhaps on a GPU and with a gradient
            value = value.detach().cpu()
        array = np.asarray(value)
        return array.astype(str) if array.dtype == object else array


def _text(label: Any, where: str) -> str:
    if isinstance(label, str):
        return label
    return " ".join(map(str, _array(label, where).reshape(-1).tolist()))
