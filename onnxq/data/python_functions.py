"""`module:function`: samples from Python code that the user names; nothing else ever runs code of the user's."""

import importlib
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.data.arrays import read_npz
from onnxq.data.sample import Sample
from onnxq.errors import DataError, first_line
from onnxq.runtime.sessions import InputSpec
from onnxq.types import Feeds

REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def import_function(reference: str) -> Any:
    """What `module:name` names; modules of the current folder are found first.

    Raises:
        DataError: no such module or name, or the module fails to import.
    """
    module, _, name = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise DataError(f"{reference}: module {module} has no '{name}'") from error
    except Exception as error:  # whatever the user's module raises
        raise DataError(
            f"{reference}: cannot import {module}: {type(error).__name__}: {first_line(error)}"
        ) from error


def function_samples(reference: str, specs: list[InputSpec], most: int | None) -> list[Sample]:
    """The samples that a function gives: a sequence is indexed, any other iterable is read once, `most` samples of it.

    A sample is a dict of arrays by input name, or one array for a model with one input; (sample, label) gives a label.
    What is read once is put on disk, for it is needed more than once and may be larger than memory.

    Raises:
        DataError: the function fails, or gives something else.
    """
    try:
        found = import_function(reference)()
    except DataError:
        raise
    except Exception as error:  # whatever the user's function raises
        raise DataError(f"{reference}: it fails: {type(error).__name__}: {first_line(error)}") from error
    if isinstance(found, Sequence) or (hasattr(found, "__len__") and hasattr(found, "__getitem__")):
        return [
            Sample(f"{reference}[{i}]", partial(_indexed, found, i, reference, specs), _label(found, i))
            for i in range(len(found))
        ]
    if not isinstance(found, Iterable):
        raise DataError(f"{reference}: gives {type(found).__name__}: expected an iterable of samples")
    return _spooled(found, reference, specs, most)


def _label(found: Any, index: int) -> str | None:
    """The label of a sample in a sequence that is held in memory anyway; others are asked when they are loaded."""
    item = found[index] if isinstance(found, list | tuple) else None
    return str(item[1]) if isinstance(item, tuple) and len(item) == 2 else None


def _indexed(found: Any, index: int, reference: str, specs: list[InputSpec]) -> Feeds:
    try:
        item = found[index]
    except Exception as error:  # whatever the user's sequence raises
        raise DataError(
            f"{reference}[{index}]: it fails: {type(error).__name__}: {first_line(error)}"
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
                f"sample {where}: is a {type(item).__name__}: expected a dict of arrays with the keys [{names}]"
            )
        item = {specs[0].name: item}
    return {str(name): np.asarray(value) for name, value in item.items()}, label


def _spooled(found: Iterable[Any], reference: str, specs: list[InputSpec], most: int | None) -> list[Sample]:
    folder = tempfile.TemporaryDirectory(prefix="onnxq-")
    samples: list[Sample] = []
    for i, item in enumerate(_items(found, reference, most)):
        name = f"{reference}[{i}]"
        feeds, label = _feeds(item, name, specs)
        path = Path(folder.name) / f"{i}.npz"
        np.savez(path, allow_pickle=False, **{str(k): feeds[key] for k, key in enumerate(feeds)})
        samples.append(Sample(name, partial(_unspool, folder, path, list(feeds)), label))
    return samples


def _items(found: Iterable[Any], reference: str, most: int | None) -> Iterator[Any]:
    count = 0
    try:
        for item in islice(found, most):
            yield item
            count += 1
    except Exception as error:  # whatever the user's iterable raises
        raise DataError(
            f"{reference}[{count}]: it fails: {type(error).__name__}: {first_line(error)}"
        ) from error


def _unspool(_folder: object, path: Path, names: list[str]) -> Feeds:
    """`_folder` is removed when the last sample that holds it goes."""
    arrays = read_npz(path)
    return {name: arrays[str(k)] for k, name in enumerate(names)}
