"""`module:function`: samples from a function of the user; only such options run the user's code."""

import importlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.data.arrays import read_npz
from onnxq.data.reading import library_errors
from onnxq.data.sample import Sample
from onnxq.errors import DataError, first_line
from onnxq.graph.scratch import ScratchFolder, writing_temporaries
from onnxq.options import PYTHON_FUNCTION
from onnxq.runtime.npz import npz_bytes
from onnxq.runtime.sessions import InputSpec
from onnxq.types import Feeds

REFERENCE = PYTHON_FUNCTION


def import_function(reference: str) -> Any:
    """Import `module:name`; modules in the current folder come first while the module is imported.

    Afterwards the folder comes last: functions may import more from it, but nothing there replaces a library.

    Raises:
        DataError: The module or the name does not exist, or the import fails.
    """
    if not REFERENCE.fullmatch(reference):
        raise DataError(f"{reference}: not a Python function: write it as module:function")
    module, _, name = reference.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise DataError(
            f"{reference}: cannot import {module}: {type(error).__name__}: {first_line(error)}"
        ) from error
    finally:
        with suppress(ValueError):  # the module removed it
            sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)
    function = getattr(found, name, None)
    if function is None:
        raise DataError(f"{reference}: module {module} has no '{name}': check the name")
    if not callable(function):
        raise DataError(f"{reference}: is a {type(function).__name__}, not a function: check the name")
    return function


def function_samples(reference: str, specs: list[InputSpec], most: int | None) -> list[Sample]:
    """Make samples from the result of a function: a sequence, or up to `most` items of an iterable.

    An item is a dict of arrays by input name, one array for a model with one input, or a tuple (item, label).
    Items of an iterable are stored on disk, because they are needed more than once and may exceed memory.

    Raises:
        DataError: The function raises, or returns something else.
    """
    try:
        found = import_function(reference)()
    except DataError:
        raise
    except (Exception, SystemExit) as error:  # the user's function may raise anything
        raise DataError(f"{reference}: raised {type(error).__name__}: {first_line(error)}") from error
    if isinstance(found, Sequence) or (hasattr(found, "__len__") and hasattr(found, "__getitem__")):
        return [
            Sample(
                f"{reference}[{i}]",
                partial(_indexed, found, i, reference, specs),
                _label(found, i),
                portable=False,
            )
            for i in range(len(found))
        ]
    if not isinstance(found, Iterable):
        raise DataError(
            f"{reference}: returned {type(found).__name__}, expected an iterable of samples: return a list "
            "of dicts of arrays"
        )
    return _stored(found, reference, specs, most)


def _label(found: Any, index: int) -> str | None:
    """Return the label of a sample in a list or tuple; items of other sequences load on demand."""
    item = found[index] if isinstance(found, list | tuple) else None
    return str(item[1]) if isinstance(item, tuple) and len(item) == 2 else None


def _indexed(found: Any, index: int, reference: str, specs: list[InputSpec]) -> Feeds:
    try:
        item = found[index]
    except (Exception, SystemExit) as error:  # the user's sequence may raise anything
        raise DataError(
            f"{reference}[{index}]: raised {type(error).__name__}: {first_line(error)}"
        ) from error
    return _feeds(item, f"{reference}[{index}]", specs)[0]


def _feeds(item: Any, where: str, specs: list[InputSpec]) -> tuple[Feeds, str | None]:
    label = None
    if isinstance(item, tuple) and len(item) == 2:
        item, label = item[0], str(item[1])
    if not isinstance(item, dict):
        if len(specs) != 1 or not hasattr(item, "__array__"):
            names = ", ".join(spec.name for spec in specs)
            raise DataError(
                f"sample {where}: is a {type(item).__name__}, expected a dict: return arrays with the keys "
                f"[{names}]"
            )
        item = {specs[0].name: item}
    with library_errors(f"sample {where}: not an array of one type and shape", "return NumPy arrays"):
        return {str(name): np.asarray(value) for name, value in item.items()}, label


def _stored(found: Iterable[Any], reference: str, specs: list[InputSpec], most: int | None) -> list[Sample]:
    folder = ScratchFolder()
    samples: list[Sample] = []
    for i, item in enumerate(_items(found, reference, most)):
        name = f"{reference}[{i}]"
        feeds, label = _feeds(item, name, specs)
        path = folder.path / f"{i}.npz"
        with writing_temporaries():
            path.write_bytes(npz_bytes({str(k): feeds[key] for k, key in enumerate(feeds)}))
        samples.append(Sample(name, partial(_load_stored, folder, path, list(feeds)), label, portable=False))
    return samples


def _items(found: Iterable[Any], reference: str, most: int | None) -> Iterator[Any]:
    count = 0
    try:
        for item in islice(found, most):
            yield item
            count += 1
    except (Exception, SystemExit) as error:  # the user's iterable may raise anything
        raise DataError(
            f"{reference}[{count}]: raised {type(error).__name__}: {first_line(error)}"
        ) from error


def _load_stored(_folder: object, path: Path, names: list[str]) -> Feeds:
    """Load a stored sample; `_folder` is removed with the last sample that refers to it."""
    arrays = read_npz(path)
    return {name: arrays[str(k)] for k, name in enumerate(names)}
